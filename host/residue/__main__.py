"""`python -m residue`: the command line."""

from residue._cli import main

if __name__ == "__main__":
    main()
