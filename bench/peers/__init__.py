"""Residue's CPU backend beside other libraries, in one run, on one core: ``make bench``.

Each library works in a process of its own (`worker`), where needed in an environment of its own
(`_environments`), and speaks lines of JSON (`_client`). `_measure` lets them take turns,
`_report` makes ratios of the turns, `_page` shows them.
"""
