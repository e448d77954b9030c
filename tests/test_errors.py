"""Tests of what errors show."""

import pytest

from dubmill.errors import ServiceUnavailableError, without_secrets


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (
            "postgresql+psycopg2://ana:p%40ss@db:5432/m?sslmode=require",
            "postgresql+psycopg2://db:5432/m?sslmode=require",
        ),
        (
            "postgresql://db/m?user=ana&password=p@ss&sslmode=require",
            "postgresql://db/m?user=ana&password=***&sslmode=require",
        ),
        ("https://ana:a@b@host/x", "https://host/x"),
        ("https://token@git.example/data.git", "https://git.example/data.git"),
        (
            "https://s3/video?X-Amz-Credential=AK&X-Amz-Signature=ab",
            "https://s3/video?X-Amz-Credential=***&X-Amz-Signature=***",
        ),
        ("https://llm/v1?api-key=abc", "https://llm/v1?api-key=***"),
        ("ssh://git@host/data.git", "ssh://git@host/data.git"),
        ("git@host:data.git", "git@host:data.git"),
        ("sqlite:////mlflow/mlflow.db", "sqlite:////mlflow/mlflow.db"),
        ("https://host/a@b?page=2", "https://host/a@b?page=2"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url, shown):
    assert without_secrets(url) == shown
    error = ServiceUnavailableError(f"no answer from {url}", where=url, cure=f"start {url}")
    assert error.sentence == f"{shown}: no answer from {shown}; start {shown}"
