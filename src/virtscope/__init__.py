"""virtscope: look inside, confine and trace virtual machines from the outside."""

__version__ = "0.1.0"
