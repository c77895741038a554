"""The SMT solver Bitwuzla as a command that speaks SMT-LIB over standard input and output.

Its wheel brings a Python API and no executable; `yosys-smtbmc` starts an executable. Assertion
scopes go through the API, since its parser forgets them between two pieces of input.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from bitwuzla import Option, Options, Parser, TermManager

__all__: list[str] = []


def main(arguments: list[str], script: Iterable[str]) -> None:
    """Answer a script, command by command."""
    if "--help" in arguments:
        print("--lang")  # smtbmc asks for the options, to tell the version
        return
    options = Options()
    options.set(Option.PRODUCE_MODELS, True)
    parser = Parser(TermManager(), options)
    command, depth = "", 0
    for line in script:
        text = line.split(";")[0].strip()  # smtbmc writes no string literals with semicolons
        command += f"{text}\n"
        depth += text.count("(") - text.count(")")
        if depth or not text:
            continue
        match command.split():
            case ["(exit)"]:
                return
            case ["(push", "1)"]:
                parser.bitwuzla().push(1)
            case ["(pop", "1)"]:
                parser.bitwuzla().pop(1)
            case _:
                parser.parse(command, False, False)
        sys.stdout.flush()
        command = ""


if __name__ == "__main__":
    main(sys.argv[1:], sys.stdin)
