_csn_jax() {
    local line=${COMP_LINE:0:COMP_POINT} current previous prefix="" mark word key flags values IFS=$' \t\n'
    local -a words
    read -ra words <<<"$line"
    current=${line##*[[:space:]]}
    if [[ $current ]]; then words=("${words[@]:0:${#words[@]}-1}"); fi
    previous=${words[${#words[@]}-1]}
    _csn_jax_words "${words[1]-}" "${words[2]-}"
    COMPREPLY=()
    if [[ $current == *=* ]]; then
        flags=$values
    elif [[ " $values" == *" $previous="* ]]; then
        flags=
        for word in $values; do [[ $word == "$previous="* ]] && flags+=" ${word#"$previous="}"; done
    fi
    for mark in = :; do # readline completes the part behind the last of these
        if [[ $COMP_WORDBREAKS == *$mark* && $current == *$mark* ]]; then prefix=${current%$mark*}$mark; fi
    done
    for word in $flags; do [[ $word == "$current"* ]] && COMPREPLY+=("${word#"$prefix"}"); done
    if [[ ${COMPREPLY[0]-} == *= ]]; then compopt -o nospace 2>/dev/null; fi
    return 0
}
complete -o default -F _csn_jax csn_jax
