{{- define "sosie.labels" -}}
app.kubernetes.io/name: sosie
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "sosie.selector" -}}
app.kubernetes.io/name: sosie
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The pods of Ray, by component: no other that has the release's labels. */}}
{{- define "sosie.members" -}}
matchLabels: {{- include "sosie.selector" . | nindent 2 }}
matchExpressions:
  - {key: app.kubernetes.io/component, operator: In, values: [head, workers, gpu, shards]}
{{- end }}

{{/* The settings file. Where Ray holds cores, memory and shards, Kubernetes has the same numbers. */}}
{{- define "sosie.toml" -}}
{{- $settings := deepCopy .Values.settings -}}
{{- if gt (int $settings.gallery.shards) 0 -}}
{{- $_ := set $settings.gallery "shard_resource" "sosie_shard" -}}
{{- end -}}
{{- toToml $settings -}}
{{- end }}

{{/* Pods that so many cores need, `each` to a pod, but two at least: one may go. */}}
{{- define "sosie.pods" -}}
{{- max 2 (div (add .cores .each -1) .each) -}}
{{- end }}

{{- define "sosie.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "sosie.resources" -}}
cpu: {{ .values.cpus }}
memory: {{ .memory | default .values.memory }}
{{- with .gpus }}
nvidia.com/gpu: {{ . }}
{{- end }}
{{- end }}

{{/* Whether Ray itself lives in the pod; the image has no wget, which KubeRay's own probes take. */}}
{{- define "sosie.raylet" -}}
exec:
  command:
    - /opt/sosie/bin/python
    - -c
    - import urllib.request as web; web.urlopen("http://127.0.0.1:52365/api/local_raylet_healthz", timeout=4)
{{- end }}

{{/* A pod of Ray: root, part (a name), values (cpus, memory, …), image, gpus, serves. */}}
{{- define "sosie.pod" -}}
{{- $root := .root -}}
{{- $serve := $root.Values.settings.serve -}}
metadata:
  annotations:
    # Ray starts in the environment that Sosie prints.
    ray.io/overwrite-container-cmd: "true"
  labels:
    {{- include "sosie.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .part }}
spec:
  automountServiceAccountToken: {{ eq .part "head" }}
  # Proxies drain, the registrar decides what it has and saves its gallery.
  terminationGracePeriodSeconds: {{ add (mul 2 (int $serve.drain_s)) 75 }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  {{- with $root.Values.image.pullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "sosie.selector" $root | nindent 10 }}
          app.kubernetes.io/component: {{ .part }}
  initContainers:
    # The key ring must be a file that nobody else may read, which a mounted secret is not. One that
    # is there already stands: it may have been rotated.
    - name: home
      image: {{ .image }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      command:
        - /bin/sh
        - -ec
        - |
          test -e "$SOSIE_HOME/keyring.json" || {
            install -m 0600 /keyring/keyring.json "$SOSIE_HOME/keyring.json.$HOSTNAME"
            mv -n "$SOSIE_HOME/keyring.json.$HOSTNAME" "$SOSIE_HOME/keyring.json"
          }
          # A link, since a file that is mounted by itself never changes in a running pod.
          ln -sfn /etc/sosie/sosie.toml "$SOSIE_HOME/sosie.toml"
      env:
        - {name: SOSIE_HOME, value: /var/lib/sosie}
      securityContext: {{- include "sosie.restricted" . | nindent 8 }}
      resources:
        requests: {cpu: 50m, memory: 32Mi}
        limits: {memory: 64Mi}
      volumeMounts:
        - {name: home, mountPath: /var/lib/sosie}
        - {name: keyring, mountPath: /keyring, readOnly: true}
  containers:
    - name: {{ eq .part "head" | ternary "ray-head" "ray-worker" }}
      image: {{ .image }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      command: [/bin/bash, -c, --]
      # The inner shell keeps the quotes of JSON in the operator's command.
      args:
        - >-
          ulimit -n 65536;
          environment="$(/opt/sosie/bin/sosie ray-environment /run/sosie/n)" || exit;
          eval "$environment";
          exec /bin/bash -c "$KUBERAY_GEN_RAY_START_CMD"
      ports:
        {{- if eq .part "head" }}
        - {name: gcs, containerPort: 6379}
        - {name: dashboard, containerPort: 8265}
        {{- end }}
        - {name: serve, containerPort: {{ int $serve.port }}}
      env:
        - {name: ORT_DISABLE_TELEMETRY, value: "1"}
        - name: SOSIE_REGISTRY__URL
          valueFrom:
            secretKeyRef: {name: {{ $root.Values.secrets.database }}, key: url}
        {{- if not (dig "models" "provider" "" $root.Values.settings) }}
        - {name: SOSIE_MODELS__PROVIDER, value: {{ gt (int .gpus) 0 | ternary "cuda" "cpu" }}}
        {{- end }}
      {{- with $root.Values.secrets.environment }}
      envFrom:
        - secretRef: {name: {{ . }}}
      {{- end }}
      securityContext: {{- include "sosie.restricted" . | nindent 8 }}
      resources:
        requests: {{- include "sosie.resources" . | nindent 10 }}
        limits: {{- include "sosie.resources" . | nindent 10 }}
      startupProbe:
        {{- include "sosie.raylet" . | nindent 8 }}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 60
      livenessProbe:
        {{- include "sosie.raylet" . | nindent 8 }}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        {{- if .serves }}
        # Through the proxy of this pod: what a client would be answered.
        httpGet: {path: /health/ready, port: serve}
        {{- else }}
        {{- include "sosie.raylet" . | nindent 8 }}
        {{- end }}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 2
      lifecycle:
        preStop:
          exec:
            # This pod's proxy refuses new requests, and running ones end.
            command: [/opt/sosie/bin/sosie, drain, /run/sosie/n]
      volumeMounts:
        - {name: home, mountPath: /var/lib/sosie}
        - {name: settings, mountPath: /etc/sosie, readOnly: true}
        - {name: run, mountPath: /run/sosie}
        - {name: tmp, mountPath: /tmp}
        - {name: cache, mountPath: /var/cache/sosie}
        - {name: shm, mountPath: /dev/shm}
  volumes:
    - name: home
      persistentVolumeClaim:
        claimName: {{ $root.Values.home.existingClaim | default (printf "%s-home" $root.Release.Name) }}
    - name: settings
      configMap: {name: {{ $root.Release.Name }}-settings}
    - name: keyring
      secret: {secretName: {{ $root.Values.secrets.keyRing }}, items: [{key: keyring.json, path: keyring.json}]}
    - name: run
      emptyDir: {medium: Memory, sizeLimit: 256Mi}
    - name: tmp
      emptyDir: {sizeLimit: 4Gi}
    - name: cache
      emptyDir: {sizeLimit: 1Gi}
    - name: shm
      emptyDir: {medium: Memory, sizeLimit: 1Gi}
{{- end }}
