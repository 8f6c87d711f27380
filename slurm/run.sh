#!/usr/bin/env bash
#SBATCH --job-name=acereason
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --time=04:00:00
#SBATCH --output=%x-%j.out
#
# One node, one recipe: sbatch slurm/run.sh RECIPE OUT [KEY=VALUE ...]
# Submit it again to go on where the time limit stopped it. IMAGE names a container for pyxis; without it the job runs
# in the environment it was submitted from.
set -euo pipefail
recipe=$1 out=$2
shift 2
srun ${IMAGE:+--container-image="$IMAGE" --container-mounts="$PWD:$PWD" --container-workdir="$PWD"} \
    acereason run "$recipe" --out "$out" "$@"
