"""Event in, events out: the settlement of a batch, and the Faust agents."""
