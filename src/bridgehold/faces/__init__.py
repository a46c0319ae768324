"""The faces for people and programs: command line, HTTP, stdio and shim, authoring, testing, demo, bench."""
