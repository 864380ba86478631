"""Far halves of features, sent when they are asked for; each is one file on the standard library alone."""
