{{- define "pipeline.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "pipeline.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: {{ .Chart.Name }}
{{- end }}

{{/* What selects the pods of one component: (dict "root" $ "component" "serve"). */}}
{{- define "pipeline.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "pipeline.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "pipeline.name" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "pipeline.settings" -}}
settings.yaml: |
  {{- toYaml .Values.settings | nindent 2 }}
{{- end }}

{{/*
The component's secret settings, as sources of a projected volume whose files are named after the variables:
(dict "root" $ "component" "serve" "created" "name of the created Secret").
*/}}
{{- define "pipeline.secretSources" -}}
{{- $seen := dict }}
{{- with .root.Values.secrets.create }}
- secret:
    name: {{ $.created }}
    items:
      {{- range $variable, $_ := . }}
      {{- $_ := set $seen $variable true }}
      - {key: {{ $variable }}, path: {{ $variable }}}
      {{- end }}
{{- end }}
{{- range .root.Values.secrets.existing }}
{{- if has $.component (.components | default (list "serve" "triggers" "board" "migrate")) }}
- secret:
    name: {{ .name }}
    items:
      {{- range $variable, $key := .keys }}
      {{- if hasKey $seen $variable }}{{ fail (printf "Two secrets give %s to %s. Name the `components` of each." $variable $.component) }}{{ end }}
      {{- $_ := set $seen $variable true }}
      - {key: {{ $key | quote }}, path: {{ $variable }}}
      {{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/*
A pod: (dict "root" $ "component" … "arguments" (list …) "resources" … "graceSeconds" … "temporarySize" … and optionally
"port" (its number; probed), "jobConfig" and "triggersFile" (ConfigMaps), "startSeconds", "spread").
The migrate Job runs before anything else exists, so it has its own "settings" (ConfigMap) and "created" (Secret).
*/}}
{{- define "pipeline.pod" -}}
{{- $values := .root.Values }}
{{- $name := include "pipeline.name" .root }}
{{- $settings := .settings | default (printf "%s-settings" $name) }}
{{- $secrets := include "pipeline.secretSources" (dict "root" .root "component" .component "created" (.created | default (printf "%s-secrets" $name))) | fromYamlArray }}
{{- with $values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
serviceAccountName: {{ .serviceAccount | default (include "pipeline.serviceAccount" .root) }}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ .graceSeconds }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .spread }}
topologySpreadConstraints:
  {{- range . }}
  - labelSelector:
      matchLabels:
        {{- include "pipeline.selector" $ | nindent 8 }}
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
containers:
  - name: {{ .component }}
    image: {{ $values.image.repository }}{{ if $values.image.digest }}@{{ $values.image.digest }}{{ else }}:{{ $values.image.tag | default .root.Chart.AppVersion }}{{ end }}
    imagePullPolicy: {{ $values.image.pullPolicy }}
    command: [pipeline-processing, {{ join ", " .arguments }}]
    env:
      - {name: PIPELINE_SETTINGS_FILE, value: /etc/pipeline/settings/settings.yaml}
      {{- with .jobConfig }}
      - {name: PIPELINE_JOB_CONFIG_FILE, value: /etc/pipeline/job/job.yaml}
      {{- end }}
      {{- with .triggersFile }}
      - {name: PIPELINE_TRIGGERS_FILE, value: /etc/pipeline/triggers/triggers.yaml}
      {{- end }}
      {{- range $secrets }}
      {{- range .secret.items }}
      - {name: {{ .path }}_FILE, value: /etc/pipeline/secrets/{{ .path }}}
      {{- end }}
      {{- end }}
      {{- range $variable, $value := $values.env }}
      - {name: {{ $variable }}, value: {{ $value | quote }}}
      {{- end }}
    {{- with .port }}
    ports:
      - {name: http, containerPort: {{ . }}}
    startupProbe:
      httpGet: {path: /livez, port: http}
      periodSeconds: 1
      timeoutSeconds: 5
      failureThreshold: 60
    livenessProbe:
      httpGet: {path: /livez, port: http}
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: 3
    readinessProbe:
      httpGet: {path: /readyz, port: http}
      periodSeconds: 5
      timeoutSeconds: 5
    {{- end }}
    resources:
      {{- toYaml .resources | nindent 6 }}
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL]}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      - {name: settings, mountPath: /etc/pipeline/settings, readOnly: true}
      {{- with .jobConfig }}
      - {name: job, mountPath: /etc/pipeline/job, readOnly: true}
      {{- end }}
      {{- with .triggersFile }}
      - {name: triggers, mountPath: /etc/pipeline/triggers, readOnly: true}
      {{- end }}
      {{- with $secrets }}
      - {name: secrets, mountPath: /etc/pipeline/secrets, readOnly: true}
      {{- end }}
      {{- with $values.volumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
volumes:
  - {name: tmp, emptyDir: {sizeLimit: {{ .temporarySize | default "64Mi" }}}}
  - {name: settings, configMap: {name: {{ $settings }}}}
  {{- with .jobConfig }}
  - {name: job, configMap: {name: {{ . }}}}
  {{- end }}
  {{- with .triggersFile }}
  - {name: triggers, configMap: {name: {{ . }}}}
  {{- end }}
  {{- with $secrets }}
  - name: secrets
    projected:
      defaultMode: 0440
      sources:
        {{- toYaml . | nindent 8 }}
  {{- end }}
  {{- with $values.volumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Metadata of a pod. Its checksum starts new pods when the configuration changes. */}}
{{- define "pipeline.podMetadata" -}}
labels:
  {{- include "pipeline.selector" . | nindent 2 }}
  {{- with .root.Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  checksum/config: {{ list .root.Values.settings .root.Values.secrets .root.Values.jobConfig .root.Values.triggers | toJson | sha256sum }}
  {{- with .root.Values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* The ConfigMap with the job config; empty if the image has it. */}}
{{- define "pipeline.jobConfig" -}}
{{- if .Values.jobConfig.existing }}{{ .Values.jobConfig.existing }}
{{- else if .Values.jobConfig.content }}{{ include "pipeline.name" . }}-job
{{- else if not .Values.settings.job_config_file }}{{ fail "No job config. Set jobConfig.content (--set-file jobConfig.content=job.yaml), jobConfig.existing or settings.job_config_file." }}
{{- end }}
{{- end }}

{{/* The ConfigMap with the triggers; empty without them. */}}
{{- define "pipeline.triggersFile" -}}
{{- if .Values.triggers.enabled }}
{{- if .Values.triggers.existing }}{{ .Values.triggers.existing }}
{{- else if .Values.triggers.content }}{{ include "pipeline.name" . }}-triggers
{{- else }}{{ fail "No triggers. Set triggers.content (--set-file triggers.content=triggers.yaml) or triggers.existing." }}
{{- end }}
{{- end }}
{{- end }}

{{/* How long a pod may take to end: the drain time, which the process exceeds by up to 1.5 s, and a margin. */}}
{{- define "pipeline.graceSeconds" -}}
{{- add (ceil .Values.settings.worker.drain_seconds) 15 }}
{{- end }}
