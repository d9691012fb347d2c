{{- /* The template of a pod: call it with root, component (engine or frontend) and values of that. */ -}}
{{- define "vgate.pod" -}}
{{- $root := .root -}}
{{- $values := .values -}}
{{- $serves := eq .component (include "vgate.httpComponent" $root) -}}
{{- $engine := eq .component "engine" -}}
metadata:
  labels:
    {{- include "vgate.selector" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
    {{- with $values.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  annotations:
    kubectl.kubernetes.io/default-container: vgate
    # Another configuration starts the pods anew.
    checksum/config: {{ include "vgate.config" $root | sha256sum }}
    {{- with $values.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  serviceAccountName: {{ include "vgate.serviceAccount" $root }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  # What the drain may take, and the ends of the processes after it.
  terminationGracePeriodSeconds: {{ include "vgate.graceSeconds" . }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  {{- with $root.Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  {{- if and $engine $values.runtimeClassName }}
  runtimeClassName: {{ $values.runtimeClassName }}
  {{- end }}
  {{- with $values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if or (not $engine) (not $root.Values.dryRun) }}
  {{- with $values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- with $values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "vgate.selector" $root | nindent 10 }}
          app.kubernetes.io/component: {{ .component }}
  containers:
    - name: vgate
      image: {{ include "vgate.image" . }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      {{- with include "vgate.arguments" . }}
      args: {{- . | nindent 8 }}
      {{- end }}
      env: {{- include "vgate.environment" . | nindent 8 }}
      ports: {{- include "vgate.ports" . | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      resources: {{- include "vgate.resources" . | nindent 8 }}
      # The last lines of the log are the cause in `kubectl describe pod`.
      terminationMessagePolicy: FallbackToLogsOnError
      {{- include "vgate.probes" . | nindent 6 }}
      {{- if and $serves $root.Values.drain.preStopSeconds }}
      lifecycle:
        preStop:
          # It serves on until every node has heard that it is no endpoint any more.
          exec: {command: [sleep, {{ $root.Values.drain.preStopSeconds | quote }}]}
      {{- end }}
      volumeMounts: {{- include "vgate.mounts" . | nindent 8 }}
  volumes: {{- include "vgate.volumes" . | nindent 4 }}
{{- end -}}

{{- define "vgate.graceSeconds" -}}
{{- $drain := .root.Values.drain -}}
{{- if eq .component (include "vgate.httpComponent" .root) -}}
{{- add $drain.preStopSeconds $drain.delaySeconds $drain.timeoutSeconds 15 -}}
{{- else -}}
{{- add $drain.timeoutSeconds 15 -}}
{{- end -}}
{{- end -}}

{{- define "vgate.resources" -}}
{{- $resources := deepCopy .values.resources -}}
{{- if and (eq .component "engine") (not .root.Values.dryRun) .values.gpus -}}
{{- range $kind := list "limits" "requests" -}}
{{- $_ := set $resources $kind (merge (dict $.values.gpuResource $.values.gpus) (default (dict) (get $resources $kind))) -}}
{{- end -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{- define "vgate.environment" -}}
- {name: VGATE_SERVER__STATE_DIR, value: /var/lib/vgate/state}
{{- if and (eq .component "frontend") (not .root.Values.dryRun) }}
# Their image simulates an engine otherwise.
- {name: VGATE_DRY_RUN, value: "0"}
{{- end }}
{{- if and (eq .component "engine") (not .root.Values.dryRun) }}
# Kernels that the driver compiles are kept with those of vLLM.
- {name: CUDA_CACHE_PATH, value: /var/lib/vgate/.cache/nv}
{{- if .root.Values.huggingFace.existingSecret }}
# A file, since other processes of the pod could read a variable.
- {name: HF_TOKEN_PATH, value: /etc/vgate/huggingface/{{ .root.Values.huggingFace.file }}}
{{- end }}
{{- end }}
{{- with .values.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "vgate.probes" -}}
{{- if eq .component (include "vgate.httpComponent" .root) -}}
startupProbe:
  {{- include "vgate.startup" . | nindent 2 }}
  exec: {command: [python3, -I, /usr/local/lib/vgate/health.py, ready]}
readinessProbe:
  httpGet: {path: /ready, port: http, scheme: {{ include "vgate.scheme" .root }}}
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 2
livenessProbe:
  # Only whether the gateway's processes live: V-Gate replaces an engine that hangs by itself.
  httpGet: {path: /health, port: http, scheme: {{ include "vgate.scheme" .root }}}
  periodSeconds: 15
  timeoutSeconds: 10
  failureThreshold: 4
{{- else -}}
startupProbe:
  {{- include "vgate.startup" . | nindent 2 }}
  exec: {command: [vgate, engine, --probe, ready]}
readinessProbe:
  exec: {command: [vgate, engine, --probe, ready]}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 2
livenessProbe:
  # Only whether the launcher lives, which replaces an engine that hangs.
  exec: {command: [vgate, engine, --probe, live]}
  periodSeconds: 30
  timeoutSeconds: 20
  failureThreshold: 4
{{- end -}}
{{- end -}}

{{- define "vgate.startup" -}}
{{- $config := .root.Values.config -}}
{{- $seconds := add (dig "supervision" "load_timeout_s" 1800 $config | int) .root.Values.engine.downloadSeconds -}}
{{- $period := 5 -}}
{{- if .root.Values.dryRun }}{{ $seconds = 300 }}{{ $period = 2 }}{{ end -}}
# Fails with the phase that the model's load is in, which `kubectl describe pod` shows. V-Gate
# ends by itself if it can't load, so this limit is only for one that hangs.
periodSeconds: {{ $period }}
timeoutSeconds: 10
failureThreshold: {{ div $seconds $period }}
{{- end -}}

{{- define "vgate.ports" -}}
{{- if eq .component (include "vgate.httpComponent" .root) -}}
- {name: http, containerPort: 8000}
{{- else -}}
- {name: engine, containerPort: {{ include "vgate.enginePort" .root }}}
{{- end -}}
{{- end -}}

{{- define "vgate.mounts" -}}
- {name: config, mountPath: /etc/vgate/config.yaml, subPath: config.yaml, readOnly: true}
- {name: run, mountPath: /run/vgate}
- {name: tmp, mountPath: /tmp}
- {name: state, mountPath: /var/lib/vgate/state}
{{- if include "vgate.keysSecret" .root }}
- {name: keys, mountPath: /etc/vgate/keys, readOnly: true}
{{- end }}
{{- if include "vgate.split" .root }}
- {name: link-keys, mountPath: /etc/vgate/link-keys, readOnly: true}
{{- end }}
{{- if and (eq .component "engine") (not .root.Values.dryRun) }}
- {name: shm, mountPath: /dev/shm}
- {name: cache, mountPath: /var/lib/vgate/.cache}
{{- if .root.Values.huggingFace.existingSecret }}
- {name: huggingface, mountPath: /etc/vgate/huggingface, readOnly: true}
{{- end }}
{{- end }}
{{- end -}}

{{- define "vgate.volumes" -}}
{{- $root := .root -}}
- name: config
  configMap: {name: {{ include "vgate.name" $root }}}
- name: run
  emptyDir: {medium: Memory, sizeLimit: 256Mi}
- name: tmp
  emptyDir: {sizeLimit: 1Gi}
{{- if not (and (eq .component "engine") (include "vgate.keepsState" $root)) }}
- name: state
  emptyDir: {sizeLimit: 1Gi}
{{- end }}
{{- with include "vgate.keysSecret" $root }}
- name: keys
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- if include "vgate.split" $root }}
{{ include "vgate.linkKeysVolume" . }}
{{- end }}
{{- if and (eq .component "engine") (not $root.Values.dryRun) }}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ .values.shmSize }}}
{{- if .values.cache.existingClaim }}
- name: cache
  persistentVolumeClaim: {claimName: {{ .values.cache.existingClaim }}}
{{- else if not .values.cache.enabled }}
- name: cache
  emptyDir: {}
{{- end }}
{{- with $root.Values.huggingFace.existingSecret }}
- name: huggingface
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- end }}
{{- end -}}

{{- /* The ledger is written where requests are served. */ -}}
{{- define "vgate.keepsState" -}}
{{- if and .Values.stateVolume.enabled (not (include "vgate.split" .)) }}true{{ end -}}
{{- end -}}
