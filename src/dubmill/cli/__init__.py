"""The command line `dubmill`."""
