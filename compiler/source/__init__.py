"""What a SOURCE is: one look at a path, before anything is made of it.

source.py    Source: a frozen answer, with digests of what it was made of
read.py      read_source: which of the five kinds a path is, and what is refused
listing.py   which files of a folder decide what becomes of it
heads.py     what the output layer of a stock class gives, where its name does not tell
"""
