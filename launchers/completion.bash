# Completion of config groups, options and fields in bash, for `python -m src.run` and for `upsample`:
#
#     source launchers/completion.bash
#
# Hydra's own (`upsample -sc install=bash`) knows the console script and `python FILE.py`, but not `python -m`.
# The candidates are Hydra's here too. Other commands of python complete file names, as they do without this.

_prompt_upsampler() {
  local line=${COMP_LINE:0:COMP_POINT} python='^[[:space:]]*([^[:space:]]*python[0-9.]*)[[:space:]]+-m[[:space:]]+src\.run([[:space:]].*)$'
  local script='^[[:space:]]*([^[:space:]]*upsample)([[:space:]].*)$'
  local -a program candidates
  COMPREPLY=()
  if [[ $line =~ $python ]]; then
    program=("${BASH_REMATCH[1]/#\~/$HOME}" -m src.run)
  elif [[ $line =~ $script ]]; then
    program=("${BASH_REMATCH[1]/#\~/$HOME}")
  else
    return
  fi
  local typed=${BASH_REMATCH[2]}
  local word=${typed##*[[:space:]]}
  [[ $word == hydra.*=* ]] && return # to show such a value Hydra would make the run folder
  read -ra candidates < <(COMP_LINE="upsample$typed" COMP_POINT=$COMP_POINT "${program[@]}" -sc query=bash 2>/dev/null)
  local done="" candidate
  [[ $COMP_WORDBREAKS == *=* && $word == *=* ]] && done="${word%=*}=" # bash keeps what stands before the last =
  for candidate in "${candidates[@]}"; do
    [[ $candidate == "$word"* ]] && COMPREPLY+=("${candidate#"$done"}")
  done
}

complete -o nospace -o default -F _prompt_upsampler python python3 upsample
