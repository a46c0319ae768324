"""What clients and the host say to each other: frames, requests, replies."""
