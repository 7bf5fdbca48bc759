export %%variable="${machines[%%trainers]}"
srun --nodes=1 --ntasks=1 --nodelist="$%%variable" %%command &
server=$!
trap 'kill "$server" 2>/dev/null' EXIT
