complete -W "attach new ls kill-server" tmux
