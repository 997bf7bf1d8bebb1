# The API server without nodes; a part of `up`.

# etcd asks nobody for a password here: a socket in a folder that only this user may enter needs
# none. The advertised addresses are formalities, since there are no other members to call them.
# Nothing in a test cluster has to survive a power cut, so nothing waits for the disk.
start etcd --data-dir "$state/etcd" --log-level warn --unsafe-no-fsync \
  --listen-client-urls "unix://$state/etcd.sock" --advertise-client-urls http://127.0.0.1:1 \
  --listen-peer-urls "unix://$state/peer.sock" --initial-advertise-peer-urls http://127.0.0.1:2 \
  --initial-cluster default=http://127.0.0.1:2

token=$(new_token)
echo "$token,admin,admin,system:masters" >"$state/tokens.csv"

for attempt in 1 2 3 4 5; do
  free_port
  kubeconfig "$KUBECONFIG" 127.0.0.1:$port "$state/pki/apiserver.crt" "$token"
  # The server makes its own certificate, and its key also signs the service accounts' tokens.
  start kube-apiserver --etcd-servers="unix://$state/etcd.sock" --bind-address=127.0.0.1 --secure-port=$port \
    --advertise-address=127.0.0.1 --endpoint-reconciler-type=none --service-cluster-ip-range=10.96.0.0/16 \
    --cert-dir="$state/pki" --token-auth-file="$state/tokens.csv" --authorization-mode=RBAC \
    --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$state/pki/apiserver.key" \
    --service-account-signing-key-file="$state/pki/apiserver.key"
  if ready kube-apiserver "$bin/kubectl" get --raw /readyz; then
    break
  fi
  grep -q "address already in use" "$state/kube-apiserver.log" && [ $attempt != 5 ] || exit 1
done

# A test may create a Node for its pods; without a kubelet it would soon be given up, and they with it.
start kube-controller-manager --kubeconfig="$KUBECONFIG" --leader-elect=false --secure-port=0 \
  --root-ca-file="$state/pki/apiserver.crt" --controllers="*,-node-lifecycle-controller,-taint-eviction-controller"
# By now it has made the first service account, so it runs.
ready kube-controller-manager "$bin/kubectl" get --namespace default serviceaccount default || exit 1
