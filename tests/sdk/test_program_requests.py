"""What a caller sets for a program: what is named like a secret is refused, as secrets are really named."""

from __future__ import annotations

import pytest

from bridgehold.audit.key_shapes import find_shape
from bridgehold.bridges.legacy.rpc_start import kept_back, passing
from bridgehold.config.guest_environment import check_variable
from bridgehold_sdk.errors import InvalidInput
from bridgehold_sdk.program_requests import checked_environment
from bridgehold_sdk.secret_names import names_secret

KNOWN = """
OPENAI_API_KEY ANTHROPIC_API_KEY GEMINI_API_KEY GOOGLE_API_KEY MISTRAL_API_KEY GROQ_API_KEY COHERE_API_KEY
OPENAIKEY GROQKEY OPENAI_APIKEY OPENAI_KEY AZURE_OPENAI_API_KEY OPENROUTER_API_KEY TOGETHER_API_KEY
REPLICATE_API_TOKEN HF_TOKEN HUGGING_FACE_HUB_TOKEN HUGGINGFACEHUB_API_TOKEN WANDB_API_KEY LANGCHAIN_API_KEY
LANGSMITH_API_KEY PINECONE_API_KEY TAVILY_API_KEY SERPAPI_API_KEY AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
AWS_SESSION_TOKEN AWS_SECURITY_TOKEN AZURE_CLIENT_SECRET AZURE_STORAGE_KEY AZURE_STORAGE_CONNECTION_STRING
AZURE_STORAGE_SAS_TOKEN ARM_CLIENT_SECRET COSMOS_PRIMARY_KEY GOOGLE_APPLICATION_CREDENTIALS
GOOGLE_CREDENTIALS GCP_SA_KEY GITHUB_TOKEN GH_TOKEN GH_PAT GITHUB_PAT GITHUB_WEBHOOK_SECRET GITLAB_TOKEN
GITLAB_PRIVATE_TOKEN CI_JOB_TOKEN BITBUCKET_APP_PASSWORD NPM_TOKEN NODE_AUTH_TOKEN NPM_CONFIG__AUTH
PYPI_TOKEN TWINE_PASSWORD UV_PUBLISH_TOKEN POETRY_PYPI_TOKEN_PYPI CARGO_REGISTRY_TOKEN DOCKER_PASSWORD
DOCKER_AUTH_CONFIG DOCKERHUB_TOKEN PGPASSWORD MYSQL_PWD MYSQL_ROOT_PASSWORD POSTGRES_PASSWORD DB_PASSWORD
DB_PASS DBPASS DBPASSWORD REDIS_PASSWORD REDISCLI_AUTH MONGO_INITDB_ROOT_PASSWORD SMTP_PASSWORD SMTP_PASS
MAILPASS SSHPASS SSH_PRIVATE_KEY SSH_KEY GPG_PASSPHRASE GPG_PRIVATE_KEY ANSIBLE_VAULT_PASSWORD VAULT_TOKEN
CONSUL_HTTP_TOKEN NOMAD_TOKEN TF_TOKEN_app_terraform_io KUBE_TOKEN SLACK_BOT_TOKEN SLACK_WEBHOOK_URL
DISCORD_TOKEN TELEGRAM_BOT_TOKEN TWILIO_AUTH_TOKEN STRIPE_SECRET_KEY STRIPE_API_KEY SENDGRID_API_KEY
MAILGUN_API_KEY DATADOG_API_KEY DD_API_KEY DD_APP_KEY SENTRY_AUTH_TOKEN NEW_RELIC_LICENSE_KEY
CLOUDFLARE_API_TOKEN CF_API_KEY HEROKU_API_KEY NETLIFY_AUTH_TOKEN VERCEL_TOKEN SUPABASE_KEY
SUPABASE_SERVICE_ROLE_KEY FIREBASE_TOKEN SNYK_TOKEN SONAR_TOKEN CODECOV_TOKEN JWT_SECRET JWT SECRET_KEY
SECRET_KEY_BASE DJANGO_SECRET_KEY FLASK_SECRET_KEY RAILS_MASTER_KEY SESSION_SECRET COOKIE_SECRET
ENCRYPTION_KEY SIGNING_KEY APP_KEY AUTH0_CLIENT_SECRET OKTA_CLIENT_TOKEN TWITTER_BEARER_TOKEN KAGGLE_KEY
COMET_API_KEY SNOWFLAKE_PASSWORD DATABRICKS_TOKEN AIRFLOW__CORE__FERNET_KEY RESTIC_PASSWORD BORG_PASSPHRASE
HTTP_AUTH KEY KEY1 API_KEY_2 API_KEYS passwd myApiKey dbPassword OpenAIKey clientSecret PASS BASIC_AUTH
SNAKEPIT_API_KEY SNAKEPIT_TOKEN SNAKEBRIDGE_SECRET DATABASE_URL DATABASE_URI databaseUrl DATABASEURL DB_URL
DATABASE_PRIVATE_URL POSTGRES_URL POSTGRES_PRISMA_URL POSTGRES_URL_NON_POOLING MYSQL_URL JDBC_DATABASE_URL
MONGO_URI MONGODB_URI MONGO_URL REDIS_URL REDIS_TLS_URL AMQP_URL CLOUDAMQP_URL RABBITMQ_URL CELERY_BROKER_URL
SQLALCHEMY_URL SQLALCHEMY_DATABASE_URI SENTRY_DSN POSTGRES_DSN DSN MAILER_DSN PG_CONNECTION_STRING
ConnectionStrings__Default SQLAZURECONNSTR_MAIN AIRFLOW_CONN_MAIN AIRFLOW__DATABASE__SQL_ALCHEMY_CONN
"""
PLAIN = """
KEYBOARD KEYBOARD_LAYOUT MONKEY MONKEYPATCH DONKEY_KONG TURKEY WHISKEY_LEVEL PASSENGER_APP_ENV
PASSENGER_MAX_POOL_SIZE TOKENIZERS_PARALLELISM TOKENIZER TOKENIZER_PATH MAX_TOKENS OPENAI_MAX_TOKENS
NUM_TOKENS TOKENS_PER_MINUTE EOS_TOKEN PAD_TOKEN TOKEN_LIMIT TOKEN_COUNT PWD OLDPWD PATH PYTHONPATH HOME
USER LOGNAME SHELL TERM COLORTERM LANG LC_ALL TZ EDITOR PAGER DISPLAY HOSTNAME TMPDIR COLUMNS LINES AUTHOR
AUTHORS GIT_AUTHOR_NAME GIT_AUTHOR_EMAIL GIT_COMMITTER_NAME OAUTHLIB_INSECURE_TRANSPORT AUTH0_DOMAIN
OS_AUTH_URL AUTH_MODE PATTERN FILE_PATTERN DB_PATH DATABASE_NAME BYPASS BYPASS_CACHE COMPASS PASSTHROUGH
PASS_THROUGH PASSIVE_MODE LOW_PASS FIRST_PASS PASSES MULTIPASS SECRETARY SECRETION_RATE CREDIT CREDITS_URL
ACCREDITED COOKIECUTTER_CONFIG COOKIES_ENABLED KEYRING_BACKEND KEYNOTE KEYSPACE KEYWORDS PUBLIC_KEY
SSH_PUBLIC_KEY STRIPE_PUBLISHABLE_KEY SORT_KEY CACHE_KEY FOREIGN_KEYS KEY_SIZE SECRET_NAME TOKEN_URL
PATIENCE PATCH SPATIAL CUDA_VISIBLE_DEVICES OMP_NUM_THREADS OPENBLAS_NUM_THREADS MKL_NUM_THREADS HF_HOME
HF_HUB_OFFLINE TRANSFORMERS_CACHE TRANSFORMERS_OFFLINE NCCL_DEBUG TORCH_HOME XLA_FLAGS JAX_PLATFORMS
WANDB_MODE WANDB_PROJECT MPLBACKEND PYTHONUNBUFFERED NO_COLOR FORCE_COLOR CI DEBUG LOG_LEVEL NODE_ENV
RAILS_ENV DJANGO_SETTINGS_MODULE FLASK_APP FLASK_ENV AWS_REGION AWS_DEFAULT_REGION AWS_PROFILE
GOOGLE_CLOUD_PROJECT AZURE_TENANT_ID KUBECONFIG DOCKER_HOST SNAKEPIT_LOG_LEVEL SNAKEPIT_MAX_TOKENS
GRPC_VERBOSITY JOCKEY HOTKEY OVERPASS_API DATABASE_HOST REDIS_HOST MONGO_PORT DB_ENGINE SQLALCHEMY_ECHO
MLFLOW_TRACKING_URI BASE_URL CURL_CA_BUNDLE SOURCE_URI OPENAI_BASE_URL
"""
PASSWORDS = """
postgres://me:pass@db.internal/app mongodb+srv://me:p%40ss@cluster0.example.net/?retryWrites=true
redis://:pass@cache:6379/0 amqp://me:p@ss@broker https://me:pass@index.example/simple https://token@git.example/a.git
a,b,redis://:pass@second:6379 Server=db;Uid=me;Pwd=pass; jdbc:mysql://db/app?user=me&password=pass
DefaultEndpointsProtocol=https;AccountName=a;AccountKey=cGFzcw== host=db,password=pass PASSWORD=pass
"""
NO_PASSWORDS = """
http://127.0.0.1:8080/v1 sqlite:///app.db postgres://db.internal/app ssh://git@example.org/a.git me@example.org
http://host:80/a@b https://example.org/?at=a@b user=me --password forgotpassword=no a:b@c
"""
SECRETS, HARMLESS = KNOWN.split(), PLAIN.split()


def test_well_known_secrets_are_known_by_their_names() -> None:
    assert [name for name in SECRETS if not names_secret(name)] == []
    assert len(SECRETS) > 100


def test_well_known_variables_that_are_none_pass() -> None:
    assert [name for name in HARMLESS if names_secret(name)] == []
    assert list(checked_environment(dict.fromkeys(HARMLESS, "x"))) == HARMLESS
    assert len(HARMLESS) > 100


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_s_name_goes_in_by_no_way(name: str) -> None:
    """Of a caller, of the configuration, and with a foreign worker's start."""
    with pytest.raises(InvalidInput, match="looks like a key's name"):
        checked_environment({name: "value"})
    with pytest.raises(ValueError, match=r"a key doesn't go inside|capitals, digits"):
        check_variable(name, "value")
    worker = f"SNAKEPIT_{name}".upper()
    assert passing({worker: "value", "SNAKEPIT_LOG_LEVEL": "info"}, find_shape) == {
        "SNAKEPIT_LOG_LEVEL": "info"
    }
    assert kept_back({worker[:64]: "value"}, find_shape) == (worker[:64],)


@pytest.mark.parametrize(
    "value", [*PASSWORDS.split(), "host=db password = pass", "redis://" * 100_000 + ":pass@a"]
)
def test_a_password_in_a_value_goes_in_by_no_way(value: str) -> None:
    """Whatever the variable is called."""
    with pytest.raises(InvalidInput, match="has a password in its value"):
        checked_environment({"MAIN": value})
    with pytest.raises(ValueError, match="a key doesn't go inside") as refused:
        check_variable("MAIN", value)
    assert value not in str(refused.value)
    assert passing({"SNAKEPIT_MAIN": value}, find_shape) == {}
    assert kept_back({"SNAKEPIT_MAIN": value, "A": ""}, find_shape) == ("SNAKEPIT_MAIN", "A")


def test_a_value_of_a_key_s_shape_goes_in_with_no_start() -> None:
    """Whatever the variable is called; a caller's own are searched with all its arguments, by the host."""
    keys = [
        "sk-" + "a1B2" * 8,
        "AKIA" + "A1B2" * 4,
        "ghp_" + "a1B2" * 8,
        "AIza" + "a1B2" * 9,
        "hf_" + "a1B2" * 8,
        "gsk_" + "a1B2" * 8,
        "xoxb-" + "12345-" * 4,
        "glpat-" + "a1B2" * 5,
        "eyJ" + "a1B2" * 5 + ".eyJ" + "a1B2" * 5,
        "Bearer " + "a1B2" * 8,
        "-----BEGIN " + "PRIVATE KEY-----",
    ]
    for key in keys:
        for value in (key, f"--model=x --with {key} more"):
            given = {"SNAKEPIT_MAIN": value, "SNAKEPIT_LOG_LEVEL": "info"}
            assert passing(given, find_shape) == {"SNAKEPIT_LOG_LEVEL": "info"}, key[:6]
            assert kept_back(given, find_shape) == ("SNAKEPIT_MAIN",)
            with pytest.raises(ValueError, match="a key doesn't go inside") as refused:
                check_variable("MAIN", value)
            assert key not in str(refused.value)
    for value in ("sk-", "desk-top-environment", "hf_cache", "AKIA", "task-number-twelve-of-many"):
        assert passing({"SNAKEPIT_MAIN": value}, find_shape) == {"SNAKEPIT_MAIN": value}


@pytest.mark.parametrize("value", NO_PASSWORDS.split())
def test_an_address_without_a_password_goes_in(value: str) -> None:
    assert checked_environment({"MAIN": value}) == {"MAIN": value}
    check_variable("MAIN", value)
    assert passing({"SNAKEPIT_MAIN": value}, find_shape) == {"SNAKEPIT_MAIN": value}


@pytest.mark.parametrize("name", ["", "1", "_", "é", "KEY" * 100_000, "_".join(["A"] * 100_000)])
def test_any_text_has_an_answer(name: str) -> None:
    assert names_secret(name) == name.startswith("KEY")
