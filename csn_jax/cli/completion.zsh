_csn_jax() {
    local current=$words[CURRENT] previous=$words[CURRENT-1] flags values
    _csn_jax_words "${words[2,CURRENT-1][1]}" "${words[3,CURRENT-1][1]}"
    local -a found=(${(M)${=values}:#$current*}) open
    if [[ $current == *=* ]]; then
        if (( $#found )); then compadd -- $found; else compset -P '*='; _files; fi
        return
    fi
    found=(${(M)${=values}:#$previous=*})
    if (( $#found )); then compadd -- ${found#$previous=}; return; fi
    found=(${(M)${=flags}:#$current*})
    open=(${(M)found:#*=})
    compadd -S '' -- $open
    compadd -- ${found:#*=} || (( $#found )) || _files
}
if (( ! $+functions[compdef] )); then autoload -Uz compinit; compinit -u; fi
compdef _csn_jax csn_jax
