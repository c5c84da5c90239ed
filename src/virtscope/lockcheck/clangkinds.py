"""libclang's numbers for kinds of cursors, types and operators (``clang-c/Index.h``)."""

from __future__ import annotations

# The bindings' enumeration objects cost more than the call they come from.
UNION = 3
FUNCTION_DECL, VAR_DECL, PARM_DECL, TYPEDEF_DECL, ENUM_CONSTANT = 8, 9, 10, 20, 7
DECL_REF, MEMBER_REF, CALL, LITERALS = 101, 102, 103, (106, 110)
CXX_BOOL = 130
UNEXPOSED, PAREN, UNARY, SUBSCRIPT, BINARY, COMPOUND_ASSIGN, CONDITIONAL, CAST = (
    100,
    111,
    112,
    113,
    114,
    115,
    116,
    117,
)
INIT_LIST, STRING, STMT_EXPR, GENERIC, SIZEOF = 119, 109, 121, 122, 136
LABEL, COMPOUND, CASE, DEFAULT, IF, SWITCH, WHILE, DO, FOR, GOTO, INDIRECT = (*range(201, 212),)
CONTINUE, BREAK, RETURN, ASM, NULL_STMT, DECL_STMT = 212, 213, 214, 215, 230, 231
POINTER, DEPENDENT = 101, 26
ARRAYS = (112, 114, 115, 116)

OPERATORS = {
    6: "+",
    7: "-",
    3: "*",
    4: "/",
    5: "%",
    8: "<<",
    9: ">>",
    11: "<",
    12: ">",
    13: "<=",
    14: ">=",
    15: "==",
}
OPERATORS |= {16: "!=", 17: "&", 18: "^", 19: "|"}
