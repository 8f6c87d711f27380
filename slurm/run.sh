#!/usr/bin/env bash
@DIRECTIVES@
#
# Runs the plan of RUN/plan.yaml@UNTIL@; made by `acereason submit`, which fills the words between @ signs.
# The first node tells why the run ends: one that fails must not have srun end it before (--kill-on-bad-exit=0).
# USR1, sent before the time limit or by `scancel --batch --signal=USR1 JOB`, has the run save and come back; so has
# SIGTERM to the step, which its launcher takes: preemption with a time of grace, or `scancel --signal=TERM JOB`.
@ENVIRONMENT@
@SETUP@
set -u # behind the site's own lines: `module` may not bear it
run_dir=@RUN_DIR@
deadline=
ask_to_save() {
    touch "$run_dir/stop"
    # what cannot save in time comes back to its last checkpoint
    [ -n "$deadline" ] || { (sleep @SAVE_S@ && @COME_BACK@) & deadline=$!; }
}
asked=
trap 'asked=yes' USR1 # starts nothing yet: $! has to be the step's

srun --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_ON_NODE" --kill-on-bad-exit=0 @COMMAND@ &
step=$!
trap ask_to_save USR1
[ -z "$asked" ] || ask_to_save
wait "$step"
status=$?
runs=yes
while [ "$status" = 138 ] && [ "$runs" = yes ]; do # 128 + USR1: that ended `wait`; of a step that runs no more it is its own
    kill -0 "$step" 2>/dev/null || runs=no
    wait "$step"
    status=$?
done

[ -n "$deadline" ] && kill "$deadline"
# SIGTERM to the step alone, before its launchers took heed of it, or twice (scancel ends this script as well); 128 + BUS:
# it ended the mount of a container's image before them
[[ "$status" = 143 || "$status" = 135 ]] && scontrol --oneliner show job "$SLURM_JOB_ID" | grep -q " JobState=RUNNING " && status=75
if [ "$status" = 75 ]; then # saved, or worth another try: acereason status RUN tells why
    trap '' TERM # requeueing ends this script, which has one more thing to say
    @COME_BACK@
    [ -s "$run_dir/slurm/exclude" ] && scontrol update JobId="$SLURM_JOB_ID" ExcNodeList="$(cat "$run_dir/slurm/exclude")"
fi
exit "$status"
