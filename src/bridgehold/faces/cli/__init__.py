"""The command line. Each module beside this one holds one family of commands; `main` joins them."""
