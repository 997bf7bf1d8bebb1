# Packs programs of this machine as container images; to be sourced.

# add_programs ROOT FILE... : programs go to usr/bin, with the libraries that they need at the places where they are here;
# other files keep their place. A busybox brings the links by which its commands are called.
add_programs() {
  local root=$1 file library command; shift
  for file; do
    if [ ! -x "$file" ]; then
      install -D -m 644 "$file" "$root$file"
      continue
    fi
    install -D -m 755 "$file" "$root/usr/bin/$(basename "$file")"
    # A static program has none, of which ldd makes a failure.
    for library in $(ldd "$file" 2>/dev/null | grep -o '/[^ ]*' || true); do install -D -m 755 "$library" "$root$library"; done
    if [ "$(basename "$file")" = busybox ]; then
      for command in $("$file" --list | grep -vx busybox); do
        # A program of that name is better than busybox's, be it there already or yet to come.
        [ -e "$root/usr/bin/$command" ] || ln -s busybox "$root/usr/bin/$command"
      done
    fi
  done
}

# pack ROOT NAME:TAG OUT.tar ENTRYPOINT [USER] : one layer; the same content gives the same image
pack() {
  local root=$1 name=$2 out=$3 user=${5:-} words folder config digest
  read -ra words <<<"$4"
  folder=$(mktemp -d)
  mkdir -p "$root/tmp" "$root/etc"
  chmod 755 "$root"
  chmod 1777 "$root/tmp"
  printf '%s\n' root:x:0:0:root:/:/bin/sh nobody:x:65534:65534:nobody:/:/bin/sh >"$root/etc/passwd"
  [ -e "$root/bin" ] || ln -s usr/bin "$root/bin"
  tar --create --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --file "$folder/layer.tar" --directory "$root" .
  digest=$(sha256sum <"$folder/layer.tar")
  config="\"Entrypoint\": [$(printf '"%s",' "${words[@]}" | sed 's/,$//')], \"User\": \"$user\","
  config+=" \"Env\": [\"PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin\"]"
  cat >"$folder/config.json" <<END
{"architecture": "amd64", "os": "linux", "config": {$config}, "rootfs": {"type": "layers", "diff_ids": ["sha256:${digest%% *}"]}}
END
  echo "[{\"Config\": \"config.json\", \"RepoTags\": [\"localhost/$name\"], \"Layers\": [\"layer.tar\"]}]" >"$folder/manifest.json"
  tar --create --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --file "$out.new" --directory "$folder" manifest.json config.json layer.tar
  mv "$out.new" "$out"
  rm -r "$folder"
}

# pack_programs OUT.tar NAME:TAG USER ENTRYPOINT FILE...
pack_programs() {
  local out=$1 name=$2 user=$3 entrypoint=$4 root; shift 4
  root=$(mktemp -d)
  add_programs "$root" "$@"
  pack "$root" "$name" "$out" "$entrypoint" "$user"
  rm -r "$root"
}
