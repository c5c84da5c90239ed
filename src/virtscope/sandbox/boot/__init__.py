"""Where the time of a start goes: spans of one start, activities over several, drawings, and comparisons.

`measure` starts things and yields a `Span` tree for each start; `activity` merges them; `text`, `svg`, `page`
and `export` show the result; `compare` says what got slower. The commands are virt-boot-benchmark and
virt-boot-analysis.
"""
