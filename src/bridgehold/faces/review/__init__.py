"""The reviewer's page: an audit, its grants and its verdicts, read-only, in a browser on this machine."""
