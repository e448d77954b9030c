"""Tests of what errors show."""

import time

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
        ("https://host:8080/a@b", "https://host:8080/a@b"),
        ("ssh://git@host:22/data.git@v1", "ssh://git@host:22/data.git@v1"),
        ("ssh://git:SECRET@host/data.git", "ssh://host/data.git"),
        ("https://ana@mill.org:SECRET@host/x", "https://host/x"),
        ("https://blob/a?sv=1&sig=SECRET%3D&se=2", "https://blob/a?sv=1&sig=***&se=2"),
        ("https://host/#access_token=SECRET&state=1", "https://host/#access_token=***&state=1"),
        ("https://host/?auth=SECRET", "https://host/?auth=***"),
        ("https://host/?pwd=SECRET", "https://host/?pwd=***"),
        ("https://host/?code=SECRET", "https://host/?code=***"),
        ("mssql://db/m?a=1;password=SECRET", "mssql://db/m?a=1;password=***"),
        ("Server=db;UID=ana;PWD=SECRET", "Server=db;UID=ana;PWD=***"),
        ("postgresql://ana:SE/CRET@db/m", "postgresql://db/m"),
        ("postgresql://ana:SE?CRET@db/m", "postgresql://db/m"),
        ("postgresql://ana:SE#CRET@db/m", "postgresql://db/m"),
        ("postgresql://ana:S@E/CR@ET@db/m", "postgresql://db/m"),
        ("postgresql://ana:SE/CRET@db/m?password=p@ss", "postgresql://db/m?password=***"),
        ("postgresql://db/m?password=SE;CRET&a=1", "postgresql://db/m?password=***&a=1"),
        ("postgresql://db/m?password=SE'CRET", "postgresql://db/m?password=***"),
        ("password=SECRET host=db", "password=*** host=db"),
        ("host=db password='SE CR\\'ET' user=ana", "host=db password=*** user=ana"),
        ("('https://host/?key=SECRET').", "('https://host/?key=***')."),
        ("https://host/?codec=h264&author=ana&timecode=1", "https://host/?codec=h264&author=ana&timecode=1"),
        (
            "https://host/?design=3&keyword=a&keyframes=2&bypassed=1",
            "https://host/?design=3&keyword=a&keyframes=2&bypassed=1",
        ),
        ("passport=ES host=db", "passport=ES host=db"),
        ("https://host/?auth_code=SECRET&x-code=SECRET", "https://host/?auth_code=***&x-code=***"),
        (
            "https://host/?apiKey=SECRET&authCode=SECRET&dbpass=SECRET",
            "https://host/?apiKey=***&authCode=***&dbpass=***",
        ),
        ("https://host/?Authorization=SECRET&oauth=SECRET", "https://host/?Authorization=***&oauth=***"),
        ("https://host/?AWSAccessKeyId=AK&sign=SECRET", "https://host/?AWSAccessKeyId=***&sign=***"),
        ("DB_PASS=SECRET host=db", "DB_PASS=*** host=db"),
        ("dbPassValue=SECRET host=db", "dbPassValue=*** host=db"),
        *(
            (f"https://host/?{name}=SECRET&a=1", f"https://host/?{name}=***&a=1")
            for name in [
                "privateKeyPem",
                "authHeader",
                "codeVerifier",
                "apiKeyValue",
                "authCookie",
                "keyMaterial",
                "subscriptionKeyPrimary",
                "mfaCode",
                "requestSign",
                "APIKEY",
                "KEYPem",
                "hmacsign",
                "authdata",
            ]
        ),
        *(
            (f"https://host/?{name}=1", f"https://host/?{name}=1")
            for name in ["AUTHOR", "Author", "Codec", "CODEC", "TIMECODE", "timeCodec", "KEYFRAMES", "DESIGN", "Signal"]
        ),
        *(
            (f"{before}{count}{after}", f"{before}{count}{after}")
            for count in [
                "max_tokens=256",
                "num_tokens=1",
                "maxTokens=8",
                "MAX_TOKENS=8",
                "tokens_per_clip=12",
                "tokens=3",
                "tokenizer=t5",
            ]
            for before, after in [("https://host/?a=1&", "&b=2"), ("the model takes ", " at most"), ("(", ").")]
        ),
        *(
            (f"https://host/?{name}={value}", f"https://host/?{name}=***")
            for name, value in [
                ("token", "123456"),
                ("id_token", "SECRET"),
                ("access_tokens", "SECRET"),
                ("tokens", "12SECRET"),
                ("tokens", "12.SECRET"),
                ("tokens_secret", "12"),
                ("tokensecret", "12"),
                ("max_tokens_key", "12"),
            ]
        ),
        ("access_token=SECRET host=db", "access_token=*** host=db"),
        ("https://host/?" + 99 * "x" + "token=SECRET", "https://host/?" + 99 * "x" + "token=***"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url, shown):
    assert without_secrets(url) == shown
    error = ServiceUnavailableError(f"no answer from {url}", where=url, cure=f"start {url}")
    assert error.sentence == f"{shown}: no answer from {shown}; start {shown}"


@pytest.mark.parametrize(
    "part",
    [
        "?key",
        "tokens",
        "tokens_1=",
        "&" + 5 * "key",
        "#key",
        ";key",
        "key",
        "://a:",
        "://a@",
        "://a:@?",
        "a@",
        "=",
        "pass",
        "password='",
        "?key='",
    ],
)
def test_the_time_for_a_text_grows_with_its_length(part):
    def seconds(num_characters):
        text = "&" + part * (num_characters // len(part))
        times = []
        for _ in range(5):
            start = time.process_time()
            without_secrets(text)
            times.append(time.process_time() - start)
        return min(times)

    assert seconds(16_000) < 8 * seconds(4_000)  # 4 where it is linear, 16 where it is quadratic
