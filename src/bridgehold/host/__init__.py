"""The host's process: who may ask what, and where it runs. `front` knows who asks, `cell` what they say."""
