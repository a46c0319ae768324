"""A review of an audit as a document: granted, reached, refused, spent, changed; and whether it holds."""
