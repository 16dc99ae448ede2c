{{/* The labels of every object. */}}
{{- define "leno.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: leno
{{ include "leno.selector" . }}
{{- end -}}

{{/* What the control plane's pods are found by; it never changes. */}}
{{- define "leno.selector" -}}
app.kubernetes.io/name: leno
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: control-plane
{{- end -}}

{{- define "leno.tag" -}}
{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{/* Namespaces whose pods no webhook of ours is asked about: without ours nothing could be repaired. */}}
{{- define "leno.excluded" -}}
{{- concat (list .Release.Namespace "kube-system" "kube-node-lease") .Values.injector.excludedNamespaces | uniq | toJson -}}
{{- end -}}
