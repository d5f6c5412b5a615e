#!/usr/bin/env bash
# A Slurm cluster of one node, this machine, from Debian's packages; for tests, and never beside real work.
#
#   start_slurm.sh <folder>        starts it, unless it runs, waits until the node is idle, and prints two lines to
#                                  eval: export SLURM_CONF=..., and export PATH=... for the sacct below
#   start_slurm.sh <folder> stop   kills its jobs and ends it; configuration and logs stay in <folder>
#
# Exit code 77 means that packages are missing; 1 that it did not start (the logs' last lines are printed).
# Root is not needed; started by another user, it runs that user's jobs only.
set -euo pipefail

packages="slurmctld slurmd slurm-client munge"
patience=60                                   # seconds to start
PATH="$PATH:/usr/sbin:/sbin"                  # Debian's daemons are not on everyone's path

if [[ $# -lt 1 || $# -gt 2 || "${2:-stop}" != stop ]]; then
  echo "usage: $0 <folder> [stop]" >&2
  exit 2
fi
for program in slurmctld slurmd sinfo munged; do
  if ! command -v "$program" >/dev/null; then
    echo "no $program: apt-get install $packages" >&2
    exit 77
  fi
done

umask 022                                     # the daemons refuse files that others can write
[[ -d "$1" || "${2:-}" != stop ]] || exit 0
mkdir -p "$1"
folder=$(cd "$1" && pwd -P)
logs=$folder/logs
short=$folder/short                           # a link to a folder with a short name, see below
export SLURM_CONF=$folder/slurm.conf

# pid NAME: the process of our daemon NAME if it runs. A stale pid may be another program's by now, or a zombie's.
pid() {
  local number
  number=$(cat "$short/run/$1.pid" 2>/dev/null) || return 1
  [[ "$(cat "/proc/$number/stat" 2>/dev/null)" == "$number ($1) "[!ZX]* ]] && echo "$number"
}

# await SECONDS COMMAND...: until the command succeeds; fails when the time is over.
await() {
  local end=$((SECONDS + $1))
  until "${@:2}" >/dev/null 2>&1; do
    ((SECONDS < end)) || return 1
    sleep 0.2
  done
}

gone() { ! pid "$1"; }
no_jobs() { local jobs; jobs=$(squeue --noheader) && [[ -z "$jobs" ]]; }
answers() { [[ "$(sinfo --noheader --format=%T)" =~ ^(idle|mixed|allocated)$ ]]; }

stop() {
  if pid slurmctld >/dev/null && pid slurmd >/dev/null; then
    # Jobs outlive the daemons, so they go first: pending ones (or they would start), then running ones, at once.
    timeout 10 scancel --user="$(id -un)" --state=PENDING --quiet || true
    timeout 10 scancel --user="$(id -un)" --signal=KILL --full --quiet || true
    timeout 10 scancel --user="$(id -un)" --quiet || true
    await 15 no_jobs || echo "jobs left: $(timeout 5 squeue --noheader || true)" >&2
  fi
  local name number
  for name in slurmctld slurmd munged; do     # munged last: the others authenticate with it
    if number=$(pid "$name"); then
      kill "$number" || true
      await 10 gone "$name" || kill -KILL "$number" || true
    fi
  done
  if [[ "$(readlink "$short")" == /tmp/slurm.?????? ]]; then
    rm -rf "$(readlink "$short")" "$short"
  fi
}

free_port() {
  local port
  while port=$((20000 + RANDOM % 10000)); (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
  echo "$port"
}

configure() {
  # munged's and the job steps' sockets lie here: a socket's path has at most 107 characters, and munged, as user
  # munge, could not enter a folder that is only root's. Folders of tests often are both: long and private.
  rm -f "$short"
  ln -s "$(mktemp -d /tmp/slurm.XXXXXX)" "$short"
  local real; real=$(readlink "$short")
  chmod 755 "$real"
  mkdir -p "$logs" "$folder/state" "$folder/bin" "$real/spool" "$real/run"
  (umask 077 && head -c 128 /dev/urandom >"$real/run/munge.key")
  if ((EUID == 0)); then
    chown -R munge: "$real/run"
  fi

  local cpus memory node user
  cpus=$(nproc)
  memory=$(awk '/^MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
  node=$(hostname -s)
  user=$(id -un)
  cat >"$SLURM_CONF" <<END
ClusterName=test
SlurmctldHost=$node(127.0.0.1)
NodeName=$node NodeAddr=127.0.0.1 CPUs=$((cpus < 2 ? 2 : cpus)) RealMemory=$memory

# A job in partition urgent that needs room preempts: jobs in partition test are stopped and queued again.
PartitionName=test Nodes=$node Default=YES MaxTime=INFINITE
PartitionName=urgent Nodes=$node MaxTime=INFINITE PriorityTier=2 PreemptMode=OFF
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1

# Ports of its own, so that it lives beside a real Slurm.
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)

# The daemons run as who starts them. cred_expire is also how long a requeued job waits for its next start: 120 s if
# it is not set.
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$real/run/munge.socket,cred_expire=5

StateSaveLocation="$folder/state"
SlurmdSpoolDir=$real/spool
SlurmctldPidFile=$real/run/slurmctld.pid
SlurmdPidFile=$real/run/slurmd.pid
SlurmctldLogFile="$logs/slurmctld.log"
SlurmdLogFile="$logs/slurmd.log"

# No cgroups, which containers often lack or forbid.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none

# Jobs share the node by logical CPUs, whatever its cores are; memory is not counted, or a job that asks for none
# would get all. The node has two CPUs at least, so that two jobs run at once anywhere: hence config_overrides.
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides

# Scheduling takes a second, not a minute; SIGTERM and SIGKILL are 5 s apart (30 by default).
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,batch_sched_delay=0
KillWait=5
ReturnToService=2
END

  # submitit asks sacct for the states of jobs, and waits forever for a job that was cancelled if there is no answer.
  # sacct needs slurmdbd and a database; this stand-in answers that one question from the controller's memory.
  cat >"$folder/bin/sacct" <<'END'
#!/usr/bin/env bash
# sacct -o JobID,State,NodeList --parsable2 [-j <job>]...
echo "JobID|State|NodeList"
while (($#)); do
  if [[ "$1" == -j ]]; then
    shift
    scontrol --oneliner show job "$1" 2>/dev/null
  fi
  shift
done | awk '{
  delete field
  for (i = 1; i <= NF; i++) if (split($i, pair, "=") == 2 && !(pair[1] in field)) field[pair[1]] = pair[2]
  id = "ArrayTaskId" in field ? field["ArrayJobId"] "_" field["ArrayTaskId"] : field["JobId"]
  if (id ~ /_.*[-,%]/) sub(/_.*/, "_[" field["ArrayTaskId"] "]", id)   # tasks that did not start yet
  print id "|" field["JobState"] "|" field["NodeList"]
}'
END
  chmod +x "$folder/bin/sacct"
}

start() {
  # Daemons that are half there cannot be repaired one by one: slurmctld without its munged only refuses.
  if pid munged >/dev/null && pid slurmctld >/dev/null && pid slurmd >/dev/null && await 5 answers; then
    return
  fi
  stop
  configure
  # Standard streams must not stay open, or whoever captures this script's output waits for the daemons' end.
  local run as=()
  run=$(readlink "$short")/run
  if ((EUID == 0)); then
    as=(setpriv --reuid=munge --regid=munge --clear-groups)
  fi
  {
    "${as[@]}" munged --key-file="$run/munge.key" --socket="$run/munge.socket" --seed-file="$run/munge.seed" \
      --pid-file="$run/munged.pid" --log-file="$run/munged.log" &&
      slurmctld && slurmd && await "$patience" answers
  } >"$logs/start.log" 2>&1 </dev/null || {
    echo "Slurm did not start; its logs:" >&2
    tail -n 20 "$logs"/*.log "$run/munged.log" >&2 || true
    stop
    exit 1
  }
}

if [[ "${2:-}" == stop ]]; then
  stop
else
  start
  printf 'export SLURM_CONF=%q\nexport PATH=%q:%s\n' "$SLURM_CONF" "$folder/bin" "\"\$PATH\""
fi
