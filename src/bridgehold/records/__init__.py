"""What goes to the journal, as its recorders know it: the wire, and the events of the launcher's own.

Beneath `audit`, which keeps and reads it: who has to write needs neither the chain nor the files.
"""
