{{- define "p4r.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "p4r.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "p4r.labels" -}}
{{ include "p4r.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "p4r.secret" -}}
{{- required "existingSecret is required: kubectl create secret generic p4r-keys --from-literal=api-key=... --from-literal=admin-key=... --from-literal=qdrant-api-key=..." .Values.existingSecret }}
{{- end }}

{{/* The environment of both kinds of pods. Keys come from the Secret alone. */}}
{{- define "p4r.environment" -}}
{{- range $name, $value := .Values.settings }}
{{- if regexMatch "KEY$" $name }}
{{- fail (printf "settings.%s: put keys into the Secret that existingSecret names" $name) }}
{{- end }}
- name: {{ $name }}
  value: {{ if eq $name "P4R_QDRANT__URL" }}{{ required "settings.P4R_QDRANT__URL is required: the address of Qdrant" $value | quote }}{{ else }}{{ $value | toString | quote }}{{ end }}
{{- end }}
- name: P4R_QDRANT__API_KEY
  valueFrom: {secretKeyRef: {name: {{ include "p4r.secret" . }}, key: qdrant-api-key, optional: true}}
{{- end }}

{{- define "p4r.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  runAsGroup: 1000
  fsGroup: 1000
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "p4r.container" -}}
image: "{{ .Values.image.repository }}:{{ .Values.image.tag }}"
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "p4r.volumes" -}}
- name: tmp
  emptyDir: {}
- name: models
{{- if .Values.models.existingClaim }}
  persistentVolumeClaim: {claimName: {{ .Values.models.existingClaim }}}
{{- else }}
  emptyDir: {sizeLimit: {{ .Values.models.sizeLimit }}}
{{- end }}
{{- end }}
