#!/usr/bin/env bash
# Start-up script of an instance template on Google Compute Engine, for Debian 13 and 12. It runs at every boot and may
# be run again at any time: what is there already stays, and a service is restarted only when something changed for it.
#
# Everything comes from the instance's metadata; no secret does. Attributes:
#   swnube-role             web, worker or sweeper
#   swnube-release          gs://bucket/object or https://... of the release's .tar.gz
#   swnube-release-sha256   its checksum: the release is pinned by it, and nothing else is unpacked
#   swnube-redis            address of Redis                        -> REDIS_INSTANCE_IP
#   swnube-api              the balancer's internal address         -> API_INSTANCE_IP
#   swnube-storage-url      gs://bucket of the files                -> STORAGE_URL
#   swnube-database-secret  name in Secret Manager of DATABASE_URL  (web and sweeper)
#   swnube-jwt-secret       name in Secret Manager of JWT_SECRET_KEY (web and sweeper)
#   swnube-jwt-old-secret   name in Secret Manager of JWT_SECRET_KEYS_OLD (optional; web and sweeper)
#   swnube-redis-secret     name in Secret Manager of REDIS_URL, when Redis asks for a password (optional)
#   swnube-settings         further settings, NAME=VALUE a line, such as LOG_LEVEL or WORKER_CONCURRENCY (optional)
#   swnube-ops-agent        true: install Google's Ops Agent (optional)
# A release may carry its dependencies in wheels/; then nothing is asked of a package index.
#
# The services, their users and their limits are in deploy/systemd/ of the release. Addresses of Google's services can
# be replaced, as Google's own tools do it: GCE_METADATA_HOST, CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER,
# CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE.
set -euo pipefail
umask 022

metadata="http://${GCE_METADATA_HOST:-metadata.google.internal}/computeMetadata/v1"
secret_manager=${CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER:-https://secretmanager.googleapis.com/}
storage=${CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE:-https://storage.googleapis.com/}
home=/opt/swnube
etc=/etc/swnube
run=/run/swnube
request() { curl --fail --silent --show-error --location --retry 5 --retry-connrefused --connect-timeout 5 --max-time 600 "$@"; }

say() { printf '{"time":"%s","level":"%s","event":"%s","tier":"startup"%s}\n' "$(date -u +%FT%TZ)" "$1" "$2" "${3:+,$3}"; }
fail() { say error startup.failed "\"reason\":\"$1\"" >&2; exit 1; }
trap 'say error startup.failed "\"line\":$LINENO" >&2' ERR

install_packages() { # install_packages NAME...: only what is missing, and the package lists only when something is
  local name missing=()
  for name in "$@"; do
    dpkg-query --show --showformat='${db:Status-Status}' "$name" 2>/dev/null | grep -qx installed || missing+=("$name")
  done
  ((${#missing[@]})) || return 0
  say info packages.install "\"names\":\"${missing[*]}\""
  export DEBIAN_FRONTEND=noninteractive
  apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=5 -qq update
  apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=5 -qq install --yes --no-install-recommends "${missing[@]}" >/dev/null
}

attribute() { # attribute NAME [DEFAULT]: an instance attribute; without a default it must be there
  local value
  if value=$(request --header 'Metadata-Flavor: Google' "$metadata/instance/attributes/$1" 2>/dev/null) && [[ -n $value ]]; then
    printf '%s' "$value"
  elif (($# > 1)); then
    printf '%s' "$2"
  else
    fail "metadata attribute $1 is missing"
  fi
}

# The token and the answers go through files and standard input: a command line can be read by every user.
authorized() { # authorized URL [curl option...]
  local url=$1
  shift
  request --header 'Metadata-Flavor: Google' "$metadata/instance/service-accounts/default/token" |
    jq --raw-output '"header = \"Authorization: Bearer \(.access_token)\""' |
    request --config - "$@" "$url"
}

secret() { # secret NAME: the newest version's value
  authorized "${secret_manager%/}/v1/projects/$project/secrets/$1/versions/latest:access" |
    jq --exit-status --raw-output '.payload.data' | base64 --decode
}

setting() { # setting NAME VALUE: a line as systemd's EnvironmentFile= reads it
  local value=${2//\\/\\\\}
  printf '%s="%s"\n' "$1" "${value//\"/\\\"}"
}

put() { # put FILE MODE: standard input into a file, whole or not at all, with its mode before its content
  local temporary
  temporary=$(mktemp "$(dirname "$1")/.put.XXXXXX")
  chmod "$2" "$temporary"
  cat >"$temporary"
  mv "$temporary" "$1"
}

fetch_release() { # leaves the unpacked, installed release in $release_dir
  release_dir=$home/releases/${sha256:0:16}
  [[ -e $release_dir/.complete ]] && return 0
  local archive temporary=$home/releases/.new
  rm -rf "$release_dir" "$temporary"
  mkdir -p "$temporary"
  archive=$(mktemp)
  case $release in
    gs://*)
      local path=${release#gs://}
      local object=${path#*/}
      authorized "${storage%/}/storage/v1/b/${path%%/*}/o/$(jq --null-input --raw-output --arg o "$object" '$o|@uri')?alt=media" --output "$archive"
      ;;
    https://*) request --output "$archive" "$release" ;;
    *) fail "swnube-release must begin with gs:// or https://" ;;
  esac
  echo "$sha256  $archive" | sha256sum --check --status || fail "the release is not the one that swnube-release-sha256 names"
  tar --extract --gzip --file "$archive" --directory "$temporary" --strip-components 1 --no-same-owner
  rm -f "$archive"
  # A virtual environment knows its own path: it is made where it stays.
  mv "$temporary" "$release_dir"
  python3 -m venv "$release_dir/.venv"
  local from=()
  [[ -d $release_dir/wheels ]] && from=(--no-index --find-links "$release_dir/wheels")
  "$release_dir/.venv/bin/pip" install --quiet --disable-pip-version-check --no-cache-dir "${from[@]}" \
    --requirement "$release_dir/requirements.txt"
  "$release_dir/.venv/bin/python" -m compileall -q "$release_dir/flaskr" "$release_dir/worker"
  touch "$release_dir/.complete"
  say info release.installed "\"release\":\"$release\",\"sha256\":\"$sha256\""
}

install_packages ca-certificates curl jq python3 python3-venv
role=$(attribute swnube-role)
[[ $role =~ ^(web|worker|sweeper)$ ]] || fail "swnube-role must be web, worker or sweeper"
[[ $role == worker ]] && install_packages ffmpeg
project=$(request --header 'Metadata-Flavor: Google' "$metadata/project/project-id")
release=$(attribute swnube-release)
sha256=$(attribute swnube-release-sha256)
[[ $sha256 =~ ^[0-9a-f]{64}$ ]] || fail "swnube-release-sha256 must have 64 hexadecimal digits"

id swnube >/dev/null 2>&1 || useradd --system --home-dir "$home" --no-create-home --shell /usr/sbin/nologin swnube
mkdir -p "$home/releases" "$etc"
install -d -m 0700 "$run" # in memory: a secret is on no disk
exec 9>"$run/lock"
flock 9 # a second run waits for the first

fetch_release

# Assigned first, each alone: a failure inside a larger command would not end this script.
REDIS_INSTANCE_IP=$(attribute swnube-redis)
API_INSTANCE_IP=$(attribute swnube-api)
STORAGE_URL=$(attribute swnube-storage-url)
settings=$(attribute swnube-settings '')
redis_secret=$(attribute swnube-redis-secret '')
agent_wanted=$(attribute swnube-ops-agent false)
# Only the API's side has secrets. The worker's service account may read none but that of Redis.
if [[ $role != worker ]]; then
  database_secret=$(attribute swnube-database-secret)
  jwt_secret=$(attribute swnube-jwt-secret)
  DATABASE_URL=$(secret "$database_secret")
  JWT_SECRET_KEY=$(secret "$jwt_secret")
  jwt_old_secret=$(attribute swnube-jwt-old-secret '')
  JWT_SECRET_KEYS_OLD=''
  if [[ -n $jwt_old_secret ]]; then JWT_SECRET_KEYS_OLD=$(secret "$jwt_old_secret"); fi
fi
if [[ -n $redis_secret ]]; then REDIS_URL=$(secret "$redis_secret"); fi
export REDIS_INSTANCE_IP API_INSTANCE_IP
{
  setting REDIS_INSTANCE_IP "$REDIS_INSTANCE_IP"
  setting API_INSTANCE_IP "$API_INSTANCE_IP"
  setting STORAGE_URL "$STORAGE_URL"
  setting SWNUBE_RELEASE "$sha256"
  while IFS='=' read -r name value; do
    [[ $name =~ ^[A-Z][A-Z0-9_]*$ ]] && setting "$name" "$value"
  done <<<"$settings"
  true
} | put "$etc/swnube.env" 0644

{
  if [[ $role != worker ]]; then
    setting DATABASE_URL "$DATABASE_URL"
    setting JWT_SECRET_KEY "$JWT_SECRET_KEY"
    if [[ -n $JWT_SECRET_KEYS_OLD ]]; then setting JWT_SECRET_KEYS_OLD "$JWT_SECRET_KEYS_OLD"; fi
  fi
  if [[ -n $redis_secret ]]; then setting REDIS_URL "$REDIS_URL"; fi
} | put "$run/secrets.env" 0600

# People on this machine find the two addresses in their shell, under the names they know.
printf 'export REDIS_INSTANCE_IP=%q\nexport API_INSTANCE_IP=%q\n' "$REDIS_INSTANCE_IP" "$API_INSTANCE_IP" |
  put /etc/profile.d/swnube.sh 0644

# The new release becomes the current one in one step.
ln --symbolic --force --no-dereference "$release_dir" "$home/.current"
mv --no-target-directory "$home/.current" "$home/current"
units=(swnube-"$role".service)
[[ $role == sweeper ]] && units+=(swnube-queue-depth.timer)
for file in "$release_dir"/deploy/systemd/swnube-"$role".service "$release_dir"/deploy/systemd/swnube-queue-depth.*; do
  [[ $role != sweeper && $file == */swnube-queue-depth.* ]] || put "/etc/systemd/system/${file##*/}" 0644 <"$file"
done

# What the running service was started with; another sum means something changed for it.
state=$(cat "$etc/swnube.env" "$run/secrets.env" "/etc/systemd/system/swnube-$role.service" <(echo "$release_dir") | sha256sum)
systemctl daemon-reload
systemctl enable --quiet "${units[@]}"
if [[ $(cat "$run/state" 2>/dev/null || true) == "$state" ]]; then
  systemctl start "${units[@]}"
else
  systemctl restart "${units[@]}"
  echo "$state" >"$run/state"
fi

# The release before stays for the way back; older ones go.
find "$home/releases" -mindepth 1 -maxdepth 1 -type d ! -path "$release_dir" -printf '%T@ %p\n' | sort -nr | tail -n +2 |
  cut -d ' ' -f 2- | xargs --no-run-if-empty rm -rf

if [[ $agent_wanted == true ]] && ! dpkg-query --show google-cloud-ops-agent >/dev/null 2>&1; then
  agent=$(mktemp)
  request --output "$agent" https://dl.google.com/cloudagents/add-google-cloud-ops-agent-repo.sh
  bash "$agent" --also-install || say warning ops_agent.failed # the service does not depend on it
  rm -f "$agent"
fi
say info startup.done "\"role\":\"$role\",\"sha256\":\"$sha256\""
