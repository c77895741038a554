"""The libraries, each behind the same few calls; a module imports one library only.

A module has a class ``Adapter(variant)`` with

- ``facts``: version and algorithm, for the report;
- ``operations``: those of `bench.peers._operations.OPERATIONS` that the library has;
- ``key(bits, inputs)``: a fresh key, and the fields of `bench.peers._operations.Inputs`;
- ``prepare(operation, count)``: a turn, a callable of no arguments; what it does before is free;
- ``answers(operation, result, limit)``: the first plaintexts of what a turn returned.

What encodes numbers in a call of its own is not timed; where encryption encodes, it is.
"""
