"""What leaves an audit by itself: where each sink stands, what is sent, and when it is tried again."""
