"""`bridgehold attack`: hostile acts in real sessions of a bridge, and what came of each."""
