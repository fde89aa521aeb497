#!/bin/sh
# Serves serving/models/PRESET, which `make serve` exports first: with the binary
# `tensorflow_model_server` if it is installed, else with Docker. TENSORFLOW_MODEL_SERVER names
# another binary. Ctrl-C ends the server.
set -eu
PRESET=${1:-mlp_mnist}
export PRESET
folder=$(cd "$(dirname "$0")" && pwd)
server=${TENSORFLOW_MODEL_SERVER:-tensorflow_model_server}

if [ ! -f "$folder/models/$PRESET/1/saved_model.pb" ]; then
  echo "Error: serve.sh needs an exported preset. Received: $PRESET, which is not in" \
    "serving/models. Run: make serve PRESET=$PRESET" >&2
  exit 2
fi

# Writes the configuration of the models for the preset and for the folder that the server sees.
configure() {
  sed -e "s|mlp_mnist|$PRESET|" -e "s|\"/models/|\"$1/|" "$folder/models.config" \
    > "$folder/models/models.config"
}

if command -v "$server" > /dev/null; then
  configure "$folder/models"
  exec "$server" --port=8500 --rest_api_port=8501 \
    --model_config_file="$folder/models/models.config" \
    --model_config_file_poll_wait_seconds=30 \
    --allow_version_labels_for_unavailable_models=true \
    --monitoring_config_file="$folder/monitoring.config" \
    --enable_batching=true \
    --batching_parameters_file="$folder/batching.config" \
    --grpc_max_threads=256 \
    --rest_api_timeout_in_ms=5000
elif command -v docker > /dev/null; then
  configure /models
  exec docker compose -f "$folder/docker-compose.yml" up
fi
echo "Error: serving needs a server. Received: neither $server nor docker in PATH. Install Docker," \
  "or set TENSORFLOW_MODEL_SERVER to the binary." >&2
exit 2
