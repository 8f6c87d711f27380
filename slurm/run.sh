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
trap 'touch "$run_dir/stop"' USR1 # asks the run to save

srun --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_ON_NODE" --kill-on-bad-exit=0 @COMMAND@ &
step=$!
deadline=
wait "$step"
status=$?
while [ "$status" = 138 ]; do # 128 + USR1: that ended `wait`, not the step
    # what cannot save in time comes back to its last checkpoint
    [ -z "$deadline" ] && { (sleep @SAVE_S@ && @COME_BACK@) & deadline=$!; }
    wait "$step"
    status=$?
done

[ -n "$deadline" ] && kill "$deadline"
# SIGTERM to the step alone, before its launchers took heed of it, or twice (scancel ends this script as well)
[ "$status" = 143 ] && scontrol --oneliner show job "$SLURM_JOB_ID" | grep -q " JobState=RUNNING " && status=75
if [ "$status" = 75 ]; then # saved, or worth another try: acereason status RUN tells why
    trap '' TERM # requeueing ends this script, which has one more thing to say
    @COME_BACK@
    [ -s "$run_dir/slurm/exclude" ] && scontrol update JobId="$SLURM_JOB_ID" ExcNodeList="$(cat "$run_dir/slurm/exclude")"
fi
exit "$status"
