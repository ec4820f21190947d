#!/bin/bash
# A race as job arrays of SLURM, a job a line: a search or a draw first, then what needs its ticket,
# then the table. Started on the login node, in a clone where gemkern is installed:
#
#     bash examples/on_slurm.sh [FOLDER [SETTINGS ...]]
#
# The folder of the race has to be seen by all machines, at the same path. What was stopped goes on
# when its line is submitted again.
set -euo pipefail

out=${1:-runs/on_slurm}
lines=$(gemkern race --preset digits --methods gem-miner,random --seeds 2 --budget 0.2 \
    --set score_optimizer=adam --out "$out" --engine none "${@:2}")
grep -v '# after' <<< "$lines" > "$out/first.txt"
grep '# after' <<< "$lines" > "$out/then.txt"

# Submits each line of a file as a job; prints the number of the array.
array() {
    local file=$1 count
    shift
    count=$(wc -l < "$file")
    sbatch --parsable --cpus-per-task=2 --array="1-$count" "$@" \
        --wrap "eval \"srun \$(sed -n \"\${SLURM_ARRAY_TASK_ID}p\" '$file')\""
}

first=$(array "$out/first.txt")
then=$(array "$out/then.txt" --dependency="afterok:$first")
sbatch --dependency="afterok:$then" --wrap "gemkern race --out '$out' --resume"
