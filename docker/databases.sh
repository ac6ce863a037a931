#!/bin/bash
# Two databases, each with a user of its own: the studies, and MLflow's, which may not share one. PostgreSQL's image runs
# this once, when its volume is empty.
set -euo pipefail

make() { # NAME PASSWORD
    # the password by the environment: psql's words are in the list of processes
    PASSWORD="$2" psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
        --set name="$1" <<'SQL'
\getenv password PASSWORD
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE CONNECT ON DATABASE :"name" FROM PUBLIC;
SQL
}

make mlflow "${MLFLOW_PASSWORD:?}"
make studies "${STUDIES_PASSWORD:?}" # the last: the service is healthy when it is there
