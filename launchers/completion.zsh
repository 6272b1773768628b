# Completion of config groups, options and fields in zsh, for `python -m src.run` and for `upsample`; after compinit:
#
#     source launchers/completion.zsh
#
# The candidates are Hydra's. Other commands of python complete as they did before.

_prompt_upsampler() {
  local -a program candidates
  if [[ $LBUFFER =~ '^[[:space:]]*([^[:space:]]*python[0-9.]*)[[:space:]]+-m[[:space:]]+src\.run([[:space:]].*)$' ]]; then
    program=(${~match[1]} -m src.run)
  elif [[ $LBUFFER =~ '^[[:space:]]*([^[:space:]]*upsample)([[:space:]].*)$' ]]; then
    program=(${~match[1]})
  else
    _default
    return
  fi
  local typed=$match[2]
  [[ ${typed##*[[:space:]]} == hydra.*=* ]] && return 1 # to show such a value Hydra would make the run folder
  candidates=(${=$(COMP_LINE="upsample$typed" COMP_POINT=$((8 + $#typed)) $program -sc query=bash 2>/dev/null)})
  compadd -S '' -a candidates
}

compdef _prompt_upsampler python python3 upsample
