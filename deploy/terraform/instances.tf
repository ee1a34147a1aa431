locals {
  roles = {
    web     = merge(var.web, { spot = false, settings = merge({ TRUSTED_PROXIES = "2" }, var.web.settings) })
    worker  = merge(var.worker, { settings = merge({ WORKER_CONCURRENCY = tostring(var.worker.concurrency) }, var.worker.settings) })
    sweeper = merge(var.sweeper, { spot = false })
  }
  traces = var.trace_endpoint == "" ? {} : { OTEL_EXPORTER_OTLP_ENDPOINT = var.trace_endpoint }

  metadata = {
    swnube-release        = var.release.url
    swnube-release-sha256 = var.release.sha256
    swnube-redis          = google_redis_instance.main.host
    swnube-redis-secret   = google_secret_manager_secret.main["redis-url"].secret_id
    swnube-api            = google_compute_address.internal.address
    swnube-storage-url    = "gs://${google_storage_bucket.files.name}"
    swnube-ops-agent      = tostring(var.ops_agent)
    startup-script        = file("${path.module}/../startup.sh")
    enable-oslogin        = "TRUE"
  }
  # Names of secrets, not secrets.
  api_metadata = {
    swnube-database-secret = google_secret_manager_secret.main["database-url"].secret_id
    swnube-jwt-secret      = google_secret_manager_secret.main["jwt-secret-key"].secret_id
  }
}

resource "google_compute_instance_template" "role" {
  for_each     = local.roles
  name_prefix  = "${var.name}-${each.key}-"
  machine_type = each.value.machine_type
  region       = var.region
  tags         = ["${var.name}-${each.key}"]

  metadata = merge(
    local.metadata,
    each.key == "worker" ? {} : local.api_metadata,
    {
      swnube-role     = each.key
      swnube-settings = join("\n", [for name, value in merge(local.traces, each.value.settings) : "${name}=${value}"])
    },
  )

  disk {
    source_image = var.image
    boot         = true
    auto_delete  = true
    disk_type    = "pd-balanced"
    disk_size_gb = each.value.disk_gb
  }

  network_interface {
    subnetwork = google_compute_subnetwork.main.id
  }

  service_account {
    email  = google_service_account.role[each.key].email
    scopes = ["cloud-platform"]
  }

  shielded_instance_config {
    enable_secure_boot          = true
    enable_vtpm                 = true
    enable_integrity_monitoring = true
  }

  scheduling {
    automatic_restart           = !each.value.spot
    preemptible                 = each.value.spot
    provisioning_model          = each.value.spot ? "SPOT" : "STANDARD"
    on_host_maintenance         = each.value.spot ? "TERMINATE" : "MIGRATE"
    instance_termination_action = each.value.spot ? "STOP" : null
  }

  lifecycle {
    create_before_destroy = true
  }

  # An instance that starts before it may read its secrets would have to be replaced.
  depends_on = [
    google_secret_manager_secret_iam_member.reader,
    google_secret_manager_secret_version.database,
    google_secret_manager_secret_version.jwt,
    google_secret_manager_secret_version.redis,
    google_storage_bucket_iam_member.files,
    google_storage_bucket_iam_member.releases,
    google_sql_user.main,
    google_sql_database.main,
    google_compute_router_nat.main,
  ]
}

# Alive: what auto-healing asks, and it must touch nothing, or a database that is away would cost every instance.
resource "google_compute_health_check" "alive" {
  name                = "${var.name}-alive"
  check_interval_sec  = 10
  timeout_sec         = 5
  healthy_threshold   = 1
  unhealthy_threshold = 6

  http_health_check {
    port         = 5000
    request_path = "/healthz"
  }
}

# Ready: what the balancers ask. Without Redis uploads are still taken, and wait: so it is not among the parts.
resource "google_compute_health_check" "ready" {
  name                = "${var.name}-ready"
  check_interval_sec  = 5
  timeout_sec         = 5
  healthy_threshold   = 2
  unhealthy_threshold = 3

  http_health_check {
    port         = 5000
    request_path = "/readyz?parts=database,store"
  }
}

# A new template replaces instance by instance: first the new ones serve, then the old ones drain and go.
resource "google_compute_region_instance_group_manager" "web" {
  name                      = "${var.name}-web"
  base_instance_name        = "${var.name}-web"
  region                    = var.region
  distribution_policy_zones = var.zones

  version {
    instance_template = google_compute_instance_template.role["web"].id
  }

  named_port {
    name = "http"
    port = 5000
  }

  auto_healing_policies {
    health_check      = google_compute_health_check.alive.id
    initial_delay_sec = 420
  }

  update_policy {
    type                  = "PROACTIVE"
    minimal_action        = "REPLACE"
    replacement_method    = "SUBSTITUTE"
    max_surge_fixed       = length(var.zones)
    max_unavailable_fixed = 0
  }

  lifecycle {
    ignore_changes = [target_size]
  }
}

resource "google_compute_region_instance_group_manager" "worker" {
  name                      = "${var.name}-worker"
  base_instance_name        = "${var.name}-worker"
  region                    = var.region
  distribution_policy_zones = var.zones

  version {
    instance_template = google_compute_instance_template.role["worker"].id
  }

  update_policy {
    type                  = "PROACTIVE"
    minimal_action        = "REPLACE"
    replacement_method    = "SUBSTITUTE"
    max_surge_fixed       = length(var.zones)
    max_unavailable_fixed = 0
  }

  lifecycle {
    ignore_changes = [target_size]
  }
}

# One sweeper, replaced before the others: it brings the database's tables up to the release. Should it be away for
# minutes, nothing is lost, only found later.
resource "google_compute_region_instance_group_manager" "sweeper" {
  name                      = "${var.name}-sweeper"
  base_instance_name        = "${var.name}-sweeper"
  region                    = var.region
  distribution_policy_zones = var.zones
  target_size               = 1

  version {
    instance_template = google_compute_instance_template.role["sweeper"].id
  }

  update_policy {
    type                         = "PROACTIVE"
    minimal_action               = "REPLACE"
    replacement_method           = "RECREATE"
    instance_redistribution_type = "NONE"
    max_surge_fixed              = 0
    max_unavailable_fixed        = length(var.zones)
  }
}

resource "google_compute_region_autoscaler" "web" {
  name   = "${var.name}-web"
  region = var.region
  target = google_compute_region_instance_group_manager.web.id

  autoscaling_policy {
    min_replicas    = var.web.min
    max_replicas    = var.web.max
    cooldown_period = 180

    load_balancing_utilization {
      target = var.web.utilization
    }

    scale_in_control {
      time_window_sec = 600
      max_scaled_in_replicas {
        fixed = 2
      }
    }
  }
}

# So many workers that each has worker.queue waiting tasks. The sweeper's machine writes the number; see
# deploy/systemd/queue_depth.py. Processor load keeps those that are still converting when nothing waits any more.
resource "google_compute_region_autoscaler" "worker" {
  name   = "${var.name}-worker"
  region = var.region
  target = google_compute_region_instance_group_manager.worker.id

  autoscaling_policy {
    min_replicas    = var.worker.min
    max_replicas    = var.worker.max
    cooldown_period = 180

    metric {
      name                       = "custom.googleapis.com/swnube/queue_depth"
      filter                     = "resource.type = \"global\""
      single_instance_assignment = var.worker.queue
    }

    cpu_utilization {
      target = 0.8
    }

    scale_in_control {
      time_window_sec = 900
      max_scaled_in_replicas {
        fixed = 2
      }
    }
  }
}
