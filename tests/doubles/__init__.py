"""Test doubles: small real things that several test files share."""
