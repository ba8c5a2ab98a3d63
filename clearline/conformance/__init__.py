"""Does a product do what its document says? Cases are made from the document and tried on a real Book in memory.

What must come out is worked out by a small calculator of its own, with fractions and from the document itself, so that
a mistake in the ledger's templates cannot hide in its own test.
"""
