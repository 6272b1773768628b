# Completion of config groups, options and fields in fish, for `python -m src.run` and for `upsample`:
#
#     source launchers/completion.fish
#
# The candidates are Hydra's. Other commands of python complete as they did before.

function __prompt_upsampler
    set -l found (string match -r '^\s*(\S*upsample|\S*python[0-9.]*\s+-m\s+src\.run)(\s.*)$' -- (commandline -cp))
    or return 1
    string match -rq '\shydra\.\S*=\S*$' -- $found[3]; and return # to show such a value Hydra would make the run folder
    set -l program (string match -ra '\S+' -- $found[2])
    set -lx COMP_LINE "upsample$found[3]"
    set -lx COMP_POINT (string length -- $COMP_LINE)
    $program -sc query=bash 2>/dev/null | string split -n ' '
end

complete -c upsample -f -a '(__prompt_upsampler)'
for python in python python3
    complete -c $python -n 'string match -rq "\s-m\s+src\.run\s" -- (commandline -cp)' -f -a '(__prompt_upsampler)'
end
