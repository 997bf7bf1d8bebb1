# The whole cluster; a part of `up`.

keys=$state/pki
mkdir -p "$keys" "$state"/{config,run}

# authority and certificates: only the API server's, and the one by which it proves itself to the kubelet
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=meshscope-test \
  -keyout "$keys/ca.key" -out "$keys/ca.crt" -addext keyUsage=critical,keyCertSign,cRLSign,digitalSignature 2>/dev/null
# certificate NAME SUBJECT EXTENSION...
certificate() {
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "$2" -keyout "$keys/$1.key" 2>/dev/null |
    openssl x509 -req -CA "$keys/ca.crt" -CAkey "$keys/ca.key" -CAcreateserial -days 30 -out "$keys/$1.crt" \
      -extfile <(printf '%s\n' keyUsage=digitalSignature "${@:3}") 2>/dev/null
}
certificate apiserver /CN=kube-apiserver extendedKeyUsage=serverAuth \
  subjectAltName=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,IP:127.0.0.1,IP:10.96.0.1,IP:172.30.0.10
certificate kubelet-client /O=system:masters/CN=kube-apiserver extendedKeyUsage=clientAuth
openssl ecparam -name prime256v1 -genkey -noout -out "$keys/tokens.key" # in the form that the API server can also read the public half of

# user NAME [GROUP] : a token, and a kubeconfig for use on the node
user() {
  local token; token=$(new_token)
  echo "$token,$1,$1,${2:-}" >>"$state/tokens.csv"
  kubeconfig "$state/config/${1##*:}.kubeconfig" 127.0.0.1:6443 "$keys/ca.crt" "$token"
}
user admin system:masters
user system:node:node1 system:nodes
user system:kube-controller-manager
user system:kube-scheduler
user system:kube-proxy

group=meshscope-$(new_token | head -c 8) # control group
echo "$group" >"$state/cgroup"
for template in "$here"/node/config/*; do
  sed "s|@STATE@|$state|g; s|@GROUP@|$group|g" "$template" >"$state/config/$(basename "$template")"
done

# All of it lives in namespaces of its own, and ends with the process that holds them. The cluster's API leaves them
# through a socket, which is handed on to a port of loopback.
cp "$here/node/init" "$state/init" # a shell reads on in its script for as long as it runs
background node unshare --mount --net --pid --uts --ipc --fork --kill-child --mount-proc \
  bash "$state/init" "$state/" "$bin"
for attempt in 1 2 3 4 5; do
  free_port
  background forward socat "TCP-LISTEN:$port,bind=127.0.0.1,reuseaddr,fork,backlog=128" "UNIX-CONNECT:$state/run/api.sock"
  ready forward listening "$port" && break
  [ $attempt != 5 ] || exit 1
done
sed "s|127.0.0.1:6443|127.0.0.1:$port|" "$state/config/admin.kubeconfig" >"$KUBECONFIG"

kubectl() { "$bin/kubectl" "$@"; }
say() { echo "up: $* after $((SECONDS - began)) s" >&2; }

ready node kubectl get --raw /readyz || exit 1
say "API server"
ready node kubectl wait --for=condition=Ready node/node1 --timeout=5s || exit 1
say "node"
apply() { kubectl apply --server-side "$@" >>"$state/manifests.log" 2>&1 || { cat "$state/manifests.log" >&2; exit 1; }; }
# complete NAMESPACE DEPLOYMENT
complete() {
  ready node kubectl --namespace "$1" rollout status deployment "$2" --timeout=5s || exit 1
  say "$2"
}
manifests=$bin/../manifests
apply --filename "$here/node/coredns.yaml" --filename "$here/prometheus/manifest.yaml" --filename "$manifests/crds.yaml"
kubectl create namespace istio-system >>"$state/manifests.log"
apply --filename "$manifests/istiod.yaml"
complete kube-system coredns
complete istio-system istiod
# Only istiod can say which image the gateway's pod is to run.
apply --filename "$manifests/istio-ingressgateway.yaml"
complete monitoring prometheus
complete istio-system istio-ingressgateway
