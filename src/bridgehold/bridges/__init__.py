"""What runs inside, seen from the host: manifest, catalogue, wire, the shipped bridges, the test kit."""
