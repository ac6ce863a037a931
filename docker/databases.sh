#!/bin/bash
# Creates two databases, each with its own user: the studies' and MLflow's, which cannot share one. PostgreSQL's image runs this
# once, when its volume is empty.
set -euo pipefail

make() { # NAME PASSWORD
    # The password goes through the environment, because the process list shows psql's arguments.
    PASSWORD="$2" psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
        --set name="$1" <<'SQL'
\getenv password PASSWORD
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE CONNECT ON DATABASE :"name" FROM PUBLIC;
SQL
}

make mlflow "${MLFLOW_PASSWORD:?}"
make studies "${STUDIES_PASSWORD:?}" # last, because its existence makes the service healthy
