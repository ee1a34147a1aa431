variable "project" {
  description = "Project that everything belongs to."
  type        = string
}

variable "region" {
  description = "Region of every regional part."
  type        = string
  default     = "us-central1"
}

variable "zones" {
  description = "Zones of the region that instances are spread over."
  type        = list(string)
  default     = ["us-central1-a", "us-central1-b", "us-central1-f"]

  validation {
    condition     = length(var.zones) >= 2
    error_message = "Name at least two zones: one may fail."
  }
}

variable "name" {
  description = "Prefix of every name."
  type        = string
  default     = "swnube"
}

variable "domain" {
  description = "Host name of the service; its A record must point at the output `address`."
  type        = string
}

variable "release" {
  description = "The release that runs: where its archive is (gs://... or https://...), and its SHA-256."
  type = object({
    url    = string
    sha256 = string
  })

  validation {
    condition     = can(regex("^[0-9a-f]{64}$", var.release.sha256))
    error_message = "release.sha256 must have 64 hexadecimal digits."
  }
}

variable "image" {
  description = "Boot image: Debian 13 or 12."
  type        = string
  default     = "projects/debian-cloud/global/images/family/debian-13"
}

variable "subnet_range" {
  description = "Addresses of the instances."
  type        = string
  default     = "10.20.0.0/20"
}

variable "web" {
  description = "The API's instances: machine, smallest and largest number, and the requests a second one may serve."
  type = object({
    machine_type    = optional(string, "e2-standard-2")
    disk_gb         = optional(number, 30)
    min             = optional(number, 3)
    max             = optional(number, 12)
    requests_second = optional(number, 60)
    utilization     = optional(number, 0.6)
    settings        = optional(map(string), {})
  })
  default = {}
}

variable "worker" {
  description = "The workers: machine, numbers, conversions at a time, and how many waiting tasks call for one more."
  type = object({
    machine_type = optional(string, "c3-standard-4")
    disk_gb      = optional(number, 100)
    min          = optional(number, 2)
    max          = optional(number, 20)
    concurrency  = optional(number, 4)
    queue        = optional(number, 8)
    spot         = optional(bool, false)
    settings     = optional(map(string), {})
  })
  default = {}
}

variable "sweeper" {
  description = "The sweeper's one instance."
  type = object({
    machine_type = optional(string, "e2-small")
    disk_gb      = optional(number, 20)
    settings     = optional(map(string), {})
  })
  default = {}
}

variable "database" {
  description = "Cloud SQL: machine, disk, whether it fails over to another zone, and its connection limit."
  type = object({
    tier              = optional(string, "db-custom-2-7680")
    disk_gb           = optional(number, 20)
    highly_available  = optional(bool, true)
    max_connections   = optional(number, 400)
    backup_days       = optional(number, 14)
    transaction_days  = optional(number, 7)
    protect_from_loss = optional(bool, true)
    maintenance_day   = optional(number, 7)
    maintenance_hour  = optional(number, 4)
    query_insights    = optional(bool, true)
  })
  default = {}
}

variable "redis" {
  description = "Memorystore: memory and whether it fails over to another zone."
  type = object({
    memory_gb        = optional(number, 1)
    highly_available = optional(bool, true)
  })
  default = {}
}

variable "bucket" {
  description = "The files: where they are, for how many days deleted ones can be brought back, and when any file goes."
  type = object({
    location         = optional(string, "US-CENTRAL1")
    soft_delete_days = optional(number, 7)
    delete_days      = optional(number, 0)
    destroy_with_all = optional(bool, false)
  })
  default = {}
}

variable "upload_seconds" {
  description = "How long one request may take through the balancer. 1 GB at 5 Mbit/s takes 27 minutes."
  type        = number
  default     = 3600
}

variable "drain_seconds" {
  description = "How long a leaving instance may finish what it has begun."
  type        = number
  default     = 600
}

variable "secrets_version" {
  description = "Raise it by one to make new secrets: everybody is logged out, and instances must be replaced."
  type        = number
  default     = 1
}

variable "ops_agent" {
  description = "Install Google's Ops Agent: logs and metrics of the machines in Cloud Logging and Monitoring."
  type        = bool
  default     = true
}

variable "ssh_from_iap" {
  description = "Let people with the IAP role reach port 22 of the instances."
  type        = bool
  default     = false
}

variable "trace_endpoint" {
  description = "OTLP endpoint that takes traces; empty: none."
  type        = string
  default     = ""
}
