"""Tools: functions of the host's side that a bridge may call while a command runs.

Three kinds: the caller's own (`caller`), an HTTP endpoint (`http`), a function in a process of its own
(`process`). `calls` decides, audits and bounds them alike.
"""
