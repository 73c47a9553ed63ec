"""Language models: a teacher cut to fewer layers and tokens, which learns what the whole one says of a corpus."""
