"""The driver of the card: everything between residue arrays and a board's two ports."""
