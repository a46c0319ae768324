"""What environments consist of, judged: advisories, licences, and the bill of materials."""
